// How long a forward pass over a large ring takes by a model of rates, bandwidth and latency, which counts
// work and messages as the library's own plan has them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/config.hpp>
#include <ring_attention/cpu/key_exchange.hpp>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/plan/make_plan.hpp>
#include <ring_attention/plan/meetings.hpp>
#include <ring_attention/plan/shards.hpp>
#include <utility>
#include <vector>

namespace benchmarks {

namespace ra = ring_attention;

/// Work and traffic of a member at one step: it computes with keys of one member, and sends to another. Rows
/// are of keys, each with one of values, summed over heads.
struct RingStep {
  double pairs = 0;
  double rows_received = 0;
  double rows_sent = 0;
};

/// One sequence with as many key/value heads as query heads, in contiguous shards, not causal.
class RingModel {
 public:
  RingModel(ra::AttentionConfig config, std::int64_t tokens, std::int64_t heads, std::int64_t ranks)
      : tokens_(tokens), ranks_(ranks) {
    config.ring_size = ranks;
    // All segments are alike, and the patterns of very long sequences would be very large.
    call_ = ra::detail::plan_call(config, {1, tokens, heads, heads, 1}, {}, [](ra::PatternKey key) {
      key.sequence_length = key.segment_lengths.front();
      return ra::make_dilated_indices(key);
    });
  }

  std::int64_t shard_size(std::int64_t rank) const { return shard(rank).size(); }

  /// A member's steps in the library's order, the first with its own keys.
  std::vector<RingStep> steps(std::int64_t rank) const {
    std::vector<RingStep> steps{{meet(rank, rank).first, 0, 0}};
    for (std::int64_t c = 1; c < ranks_; ++c) {
      const std::int64_t distance =
          ra::engine::distance_of_step(static_cast<int>(c), static_cast<int>(ranks_));
      const auto [pairs, received] = meet(rank, (rank - distance + ranks_) % ranks_);
      steps.push_back({pairs, received, meet((rank + distance) % ranks_, rank).second});
    }
    return steps;
  }

 private:
  ra::detail::TokenRun shard(std::int64_t rank) const {
    return ra::detail::member_tokens(tokens_, ranks_, ra::ShardLayout::contiguous, rank).runs[0];
  }

  /// Query-key pairs of a member's queries with another's keys, and key rows that they see.
  std::pair<double, double> meet(std::int64_t queries_of, std::int64_t keys_of) const {
    const auto queries = shard(queries_of), keys = shard(keys_of);
    double pairs = 0, rows = 0;
    if (queries.size() == 0 || keys.size() == 0) return {pairs, rows};
    const ra::SequencePlan& sequence = call_.plan.sequences.front();
    for (std::size_t b = 0; b < sequence.branches.size(); ++b) {
      const ra::BranchPlan& branch = sequence.branches[b];
      const std::int64_t w = branch.segment_length;
      const std::int64_t begin = std::max(queries.begin, keys.begin / w * w);
      const std::int64_t end = std::min(queries.end, ra::detail::ceil_div(keys.end, w) * w);
      if (begin >= end) continue;
      for (std::size_t o = 0; o < branch.offsets.size(); ++o) {
        const auto heads = static_cast<double>(std::ranges::count(branch.offset_of_head, o));
        for (ra::detail::SegmentWalk segments(call_.plan, sequence, b, o, begin, end); segments.next();) {
          const auto seen = heads * static_cast<double>(segments->kept.within(keys.begin, keys.end).count);
          rows += seen;
          pairs += seen * static_cast<double>(segments->queries.count);
        }
      }
    }
    return {pairs, rows};
  }

  std::int64_t tokens_, ranks_;
  ra::detail::PlannedCall call_;
};

/// What a rank can do.
struct RankSpeed {
  double operations_per_second;  ///< of the tile kernel, all cores of the rank
  double bytes_per_second;       ///< of the network, each way at once
  double message_seconds;        ///< of a message beyond its bytes
  /// Of a step: the caller's thread derives the rows of its messages from the plan. Measured for 16 heads and
  /// 10 to 20 branches: 10 to 19 us.
  double planning_seconds = 15e-6;
  /// Of rows that one thread copies into a message. Measured: 10 GB/s and more into memory that was used
  /// before, 2 GB/s into new memory.
  double packing_bytes_per_second = 10e9;
};

struct ModelledTime {
  double seconds = 0;
  double compute_seconds = 0;
};

/// A member's forward pass. The messages of a step are taken to move while the step before it is computed
/// (the library sends one step earlier), so that
///   T = sum over s = 0 .. P-1 of prepare(s + 1) + max(compute(s), messages(s + 1)),
///   compute(s) = 4 * d * pairs(s) / rate,
///   messages(s) = latency + 2 * d * bytes of a number * max(rows sent, rows received) / bandwidth,
///   prepare(s) = planning + 2 * d * bytes of a number * rows sent / packing rate;
/// a step without rows has no message, and there is no step P. Members are taken to be in step.
inline ModelledTime model_forward(const std::vector<RingStep>& steps, std::int64_t head_dim,
                                  std::int64_t scalar_bytes, const RankSpeed& speed) {
  const double row_bytes = 2.0 * static_cast<double>(head_dim * scalar_bytes);
  ModelledTime time;
  for (std::size_t s = 0; s < steps.size(); ++s) {
    const double computing =
        4.0 * static_cast<double>(head_dim) * steps[s].pairs / speed.operations_per_second;
    double messages = 0;
    if (s + 1 < steps.size()) {
      const RingStep& next = steps[s + 1];
      const double rows = std::max(next.rows_sent, next.rows_received);
      if (rows > 0) messages = speed.message_seconds + row_bytes * rows / speed.bytes_per_second;
      time.seconds += speed.planning_seconds + row_bytes * next.rows_sent / speed.packing_bytes_per_second;
    }
    time.seconds += std::max(computing, messages);
    time.compute_seconds += computing;
  }
  return time;
}

}  // namespace benchmarks
