// What a ring would do for a sequence: who owns which tokens, how much each member computes and sends.
#pragma once

#include <cstdint>
#include <ring_attention/config.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/version.hpp>
#include <utility>
#include <vector>

#if RING_ATTENTION_DEFINES_ENGINE
#include <algorithm>
#include <ring_attention/error.hpp>
#include <ring_attention/plan/meetings.hpp>
#include <ring_attention/plan/shards.hpp>
#include <ring_attention/plan/transfer.hpp>
#include <string>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// Tokens [first, second).
using TokenRange = std::pair<std::int64_t, std::int64_t>;

/// One member's part of a call.
struct MemberReport {
  std::vector<TokenRange>
      tokens;                  ///< one range (contiguous) or two (zigzag), in the order of the shard's rows
  double pairs = 0;            ///< query-key pairs that the member computes, summed over heads
  std::int64_t rows_sent = 0;  ///< key rows it sends in forward, each with a value row
};

/// What plan_report() of an attention class tells.
struct PlanReport {
  std::vector<MemberReport> members;  ///< by rank
  double largest_over_mean = 1;       ///< pairs of the busiest member / mean; 1 is perfect balance
};

/// Tokens that each member owns, in the order of its shard's rows; empty ranges are left out. Throws
/// std::invalid_argument for a negative n or a ring size that is not positive.
std::vector<std::vector<TokenRange>> shard_ranges(std::int64_t n, std::int64_t ring_size, ShardLayout layout);

namespace detail {

/// The call that a report is about; checks its arguments.
CallShape report_shape(std::int64_t total_sequence_length, std::int64_t heads, std::int64_t kv_heads);

PlanReport report_plan(const AttentionPlan& plan, ShardLayout layout);

}  // namespace detail
#if RING_ATTENTION_DEFINES_ENGINE

RING_ATTENTION_INLINE std::vector<std::vector<TokenRange>> shard_ranges(std::int64_t n,
                                                                        std::int64_t ring_size,
                                                                        ShardLayout layout) {
  if (n < 0) detail::throw_invalid("n", n, "must not be negative");
  detail::require_positive("ring_size", ring_size);
  std::vector<std::vector<TokenRange>> ranges;
  for (std::int64_t member = 0; member < ring_size; ++member) {
    auto& own = ranges.emplace_back();
    for (const detail::TokenRun& run : detail::member_tokens(n, ring_size, layout, member).runs) {
      if (run.size() > 0) own.emplace_back(run.begin, run.end);
    }
  }
  return ranges;
}

namespace detail {

RING_ATTENTION_INLINE CallShape report_shape(std::int64_t total_sequence_length, std::int64_t heads,
                                             std::int64_t kv_heads) {
  require_positive("heads", heads);
  require_positive("kv_heads", kv_heads);
  if (heads % kv_heads != 0) {
    throw_invalid("heads", heads, "must be a multiple of kv_heads = " + std::to_string(kv_heads));
  }
  if (total_sequence_length < 0) {
    throw_invalid("total_sequence_length", total_sequence_length, "must not be negative");
  }
  return {1, total_sequence_length, heads, kv_heads, 1};
}

inline double count_pairs(const AttentionPlan& plan, const TokenRun& run) {
  double pairs = 0;
  std::vector<std::int64_t> heads(static_cast<std::size_t>(plan.shape.heads));
  for (std::int64_t item = 0; item < plan.shape.batch; ++item) {
    MeetingWalk meetings(plan, item, 0, plan.shape.heads, run.begin, run.end, heads.data());
    while (meetings.next()) {
      const Segment& segment = meetings->segment;
      double seen = 0;
      for (KeyRunWalk runs(segment, 0, segment.end); runs.next();) {
        const Progression& keys = *runs;
        if (!plan.causal || keys.last() <= segment.queries.first) {
          seen += static_cast<double>(segment.queries.count) * static_cast<double>(keys.count);
          continue;
        }
        for (std::int64_t q = 0; q < segment.queries.count; ++q) {
          seen += static_cast<double>(keys.count_below(segment.queries[q] + 1));
        }
      }
      pairs += seen * static_cast<double>(meetings->head_count);
    }
  }
  return pairs;
}

RING_ATTENTION_INLINE PlanReport report_plan(const AttentionPlan& plan, ShardLayout layout) {
  const std::int64_t ring_size = plan.ring_size;
  PlanReport report;
  const auto ranges = shard_ranges(plan.shape.tokens, ring_size, layout);
  double total = 0, largest = 0;
  for (std::int64_t member = 0; member < ring_size; ++member) {
    MemberReport& own = report.members.emplace_back();
    own.tokens = ranges[static_cast<std::size_t>(member)];
    if (plan.shape.tokens == 0) continue;
    const auto mine = member_tokens(plan.shape.tokens, ring_size, layout, member);
    for (const TokenRun& run : mine.runs) own.pairs += count_pairs(plan, run);
    for (std::int64_t peer = 0; peer < ring_size; ++peer) {
      if (peer == member) continue;
      own.rows_sent += Transfer(plan, mine, member_tokens(plan.shape.tokens, ring_size, layout, peer)).rows();
    }
    total += own.pairs;
    largest = (std::max)(largest, own.pairs);
  }
  if (total > 0) report.largest_over_mean = largest * static_cast<double>(ring_size) / total;
  return report;
}

}  // namespace detail

#endif

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
