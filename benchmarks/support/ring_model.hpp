// What a forward pass over a large ring computes and sends, counted in closed form from the rules of the
// plan, and how long it takes by a model of rates, bandwidth and latency.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/config.hpp>
#include <ring_attention/cpu/key_exchange.hpp>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/plan/make_plan.hpp>
#include <ring_attention/plan/shards.hpp>
#include <utility>
#include <vector>

namespace benchmarks {

namespace ra = ring_attention;

/// Work and traffic of a member at one step: it computes with keys of the member that is so far before it,
/// and sends to the one as far after it. Rows are of keys, each with one of values, summed over heads.
struct RingStep {
  double pairs = 0;
  double rows_received = 0;
  double rows_sent = 0;
};

/// What a member sends in one call.
struct RingTraffic {
  double rows = 0;
  double messages = 0;
};

/// Counts of one sequence with as many key/value heads as query heads; contiguous shards, not causal. Every
/// count is O(branches * offsets) for one pair of members, however long the sequence.
class RingModel {
 public:
  /// `config` is valid, contiguous and not causal.
  RingModel(const ra::AttentionConfig& config, std::int64_t tokens, std::int64_t heads, std::int64_t ranks)
      : tokens_(tokens), ranks_(ranks), every_query_(config.query_rule == ra::QueryRule::all) {
    for (std::size_t i = 0; i < config.segment_lengths.size(); ++i) {
      const auto branch = static_cast<std::int64_t>(i);
      const std::int64_t rate = config.dilation_rates[i];
      const auto [first, last] = ra::detail::heads_of_branch(config, heads, branch);
      const std::size_t of_branch = classes_.size();
      for (std::int64_t head = first; head < last; ++head) {
        const std::int64_t offset = ra::detail::offset_of_head(config.offset_rule, branch, rate, head, heads);
        const auto known =
            std::find_if(classes_.begin() + static_cast<std::ptrdiff_t>(of_branch), classes_.end(),
                         [offset](const Class& of) { return of.offset == offset; });
        if (known != classes_.end()) {
          ++known->heads;
        } else {
          classes_.push_back({std::min(config.segment_lengths[i], tokens), rate, offset, 1});
        }
      }
    }
  }

  std::int64_t shard_size(std::int64_t rank) const { return shard(rank).size(); }

  /// Query-key pairs that a member computes with its own keys.
  double own_pairs(std::int64_t rank) const {
    const Range own = shard(rank);
    if (own.size() == 0) return 0;
    double pairs = 0;
    for (const Class& of : classes_) {
      const std::int64_t first = own.begin / of.segment_length, last = (own.end - 1) / of.segment_length;
      const auto add = [&](std::int64_t segment, std::int64_t times) {
        pairs += static_cast<double>(of.heads * times) * static_cast<double>(queries(of, segment, own)) *
                 static_cast<double>(kept(of, segment, own));
      };
      add(first, 1);
      if (last > first) add(last, 1);
      if (last > first + 1) add(first + 1, last - first - 1);  // whole segments are alike
    }
    return pairs;
  }

  RingStep step(std::int64_t rank, std::int64_t s) const {
    const std::int64_t from = (rank - s + ranks_) % ranks_, to = (rank + s) % ranks_;
    RingStep step;
    for (const Class& of : classes_) {
      const auto heads = static_cast<double>(of.heads);
      if (const std::int64_t segment = common_segment(of, from, rank); segment >= 0) {
        const std::int64_t mine = queries(of, segment, shard(rank));
        if (mine > 0) {
          const auto rows = static_cast<double>(kept(of, segment, shard(from)));
          step.rows_received += heads * rows;
          step.pairs += heads * rows * static_cast<double>(mine);
        }
      }
      if (const std::int64_t segment = common_segment(of, rank, to); segment >= 0) {
        if (queries(of, segment, shard(to)) > 0) {
          step.rows_sent += heads * static_cast<double>(kept(of, segment, shard(rank)));
        }
      }
    }
    return step;
  }

  /// Sums of rows_sent over the steps, and of the steps with rows_sent > 0.
  RingTraffic traffic(std::int64_t rank) const {
    RingTraffic sum;
    for (std::int64_t s = 1; s < ranks_; ++s) {
      const double rows = step(rank, s).rows_sent;
      sum.rows += rows;
      sum.messages += rows > 0 ? 1 : 0;
    }
    return sum;
  }

  /// Rows that a member sends in one call, without a loop over the members.
  double rows_sent(std::int64_t rank) const {
    const Range own = shard(rank);
    if (own.size() == 0) return 0;
    double rows = 0;
    for (const Class& of : classes_) {
      const std::int64_t first = own.begin / of.segment_length, last = (own.end - 1) / of.segment_length;
      // Segments between the two lie inside the shard.
      for (std::int64_t segment = first; segment <= last;
           segment += std::max<std::int64_t>(1, last - first)) {
        rows += static_cast<double>(of.heads * kept(of, segment, own)) *
                static_cast<double>(receivers(of, segment, rank));
      }
    }
    return rows;
  }

  /// The member that sends the most rows.
  std::int64_t busiest_sender() const {
    std::int64_t busiest = 0;
    double most = -1;
    for (std::int64_t rank = 0; rank < ranks_; ++rank) {
      const double rows = rows_sent(rank);
      if (rows > most) {
        most = rows;
        busiest = rank;
      }
    }
    return busiest;
  }

 private:
  /// Heads that keep the same rows of a branch.
  struct Class {
    std::int64_t segment_length, rate, offset, heads;
  };
  struct Range {
    std::int64_t begin, end;
    std::int64_t size() const { return end - begin; }
  };

  Range shard(std::int64_t rank) const {
    const ra::detail::TokenRun run =
        ra::detail::member_tokens(tokens_, ranks_, ra::ShardLayout::contiguous, rank).runs[0];
    return {run.begin, run.end};
  }

  Range part_of_segment(const Class& of, std::int64_t segment, const Range& range) const {
    const std::int64_t begin = segment * of.segment_length;
    const Range part{std::max(begin, range.begin), std::min({begin + of.segment_length, range.end, tokens_})};
    return part.begin < part.end ? part : Range{begin, begin};
  }

  /// Rows of a segment that lie in a range and are kept.
  std::int64_t kept(const Class& of, std::int64_t segment, const Range& range) const {
    const Range part = part_of_segment(of, segment, range);
    const std::int64_t begin = segment * of.segment_length;
    return ra::count_dilated_rows(part.end - begin, of.rate, of.offset) -
           ra::count_dilated_rows(part.begin - begin, of.rate, of.offset);
  }

  std::int64_t queries(const Class& of, std::int64_t segment, const Range& range) const {
    return every_query_ ? part_of_segment(of, segment, range).size() : kept(of, segment, range);
  }

  /// The one segment that reaches from a member into another, or -1. Ranges between the two lie inside it.
  std::int64_t common_segment(const Class& of, std::int64_t a, std::int64_t b) const {
    const Range low = shard(std::min(a, b)), high = shard(std::max(a, b));
    if (a == b || low.size() == 0 || high.size() == 0) return -1;
    const std::int64_t segment = (low.end - 1) / of.segment_length;
    return segment == high.begin / of.segment_length ? segment : -1;
  }

  /// Other members that hold queries of a segment.
  std::int64_t receivers(const Class& of, std::int64_t segment, std::int64_t rank) const {
    const std::int64_t shard_length = std::max<std::int64_t>(1, shard(0).size());
    const std::int64_t begin = segment * of.segment_length;
    const std::int64_t end = std::min(begin + of.segment_length, tokens_);
    const std::int64_t first = begin / shard_length, last = (end - 1) / shard_length;
    if (every_query_) return last - first;
    if (of.rate > shard_length) {  // no shard has two kept rows
      return kept(of, segment, {begin, end}) - kept(of, segment, shard(rank));
    }
    // A whole shard has a kept row; the first and the last may lie in the segment in part.
    std::int64_t count = last - first + 1;
    if (kept(of, segment, shard(first)) == 0) --count;
    if (last > first && kept(of, segment, shard(last)) == 0) --count;
    return count - (kept(of, segment, shard(rank)) > 0 ? 1 : 0);
  }

  std::vector<Class> classes_;
  std::int64_t tokens_, ranks_;
  bool every_query_;
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
  double communicate_seconds = 0;
};

/// A member's forward pass. Steps are in the library's order (engine::distance_of_step). The messages of a
/// step are taken to move while the step before it is computed (the library sends one step earlier), so that
///   T = sum over s = 0 .. P-1 of prepare(s + 1) + max(compute(s), messages(s + 1)),
///   compute(s) = 4 * d * pairs(s) / rate,
///   messages(s) = latency + 2 * d * bytes of a number * max(rows sent, rows received) / bandwidth,
///   prepare(s) = planning + 2 * d * bytes of a number * rows sent / packing rate;
/// a step without rows has no message, and there is no step P. Members are taken to be in step.
inline ModelledTime model_forward(const RingModel& model, std::int64_t rank, std::int64_t ranks,
                                  std::int64_t head_dim, std::int64_t scalar_bytes, const RankSpeed& speed) {
  const double row_bytes = 2.0 * static_cast<double>(head_dim * scalar_bytes);
  const auto compute_of = [&](double pairs) {
    return 4.0 * static_cast<double>(head_dim) * pairs / speed.operations_per_second;
  };
  ModelledTime time;
  double computing = compute_of(model.own_pairs(rank));
  time.compute_seconds = computing;
  for (std::int64_t s = 1; s < ranks; ++s) {
    const RingStep step =
        model.step(rank, ra::engine::distance_of_step(static_cast<int>(s), static_cast<int>(ranks)));
    const double rows = std::max(step.rows_sent, step.rows_received);
    const double messages =
        rows > 0 ? speed.message_seconds + row_bytes * rows / speed.bytes_per_second : 0.0;
    time.seconds += speed.planning_seconds + row_bytes * step.rows_sent / speed.packing_bytes_per_second;
    time.seconds += std::max(computing, messages);
    time.communicate_seconds += messages;
    computing = compute_of(step.pairs);
    time.compute_seconds += computing;
  }
  time.seconds += computing;
  return time;
}

}  // namespace benchmarks
