// Walks the segments of a plan: which queries of a token range meet which kept rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/engine/block_lists.hpp>
#include <ring_attention/engine/plan.hpp>
#include <span>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// One segment of one branch as one offset class sees it; or one query block and the keys that it lists.
struct Segment {
  std::int64_t begin = 0;
  std::int64_t end = 0;         ///< cut off at the sequence's length
  Progression kept;             ///< its keys; not used where blocks are listed
  Progression queries;          ///< queries of the walked range that attend to them; not empty
  std::int64_t zero_keys = 0;   ///< rows of padding that every query attends to as well
  std::int64_t block_size = 0;  ///< not 0: `key_blocks` are the keys
  std::span<const std::int64_t> key_blocks = {};  ///< ascending
};

/// Calls visit(segment) for every query block of a block-sparse plan that has tokens in [begin, end), in
/// order.
template <class Visit>
void for_each_query_block(const AttentionPlan& plan, std::int64_t length, const DilatedIndices& lists,
                          std::int64_t begin, std::int64_t end, const Visit& visit) {
  for (std::int64_t block = begin / plan.block_size; block * plan.block_size < end; ++block) {
    const Progression tokens = block_tokens(block, block + 1, plan.block_size, length);
    Segment segment;
    segment.begin = 0;
    segment.end = length;
    segment.block_size = plan.block_size;
    segment.key_blocks = list_of(lists, block);
    segment.queries = tokens.sub((std::max)(begin - tokens.base, std::int64_t{0}),
                                 (std::min)(end - tokens.base, tokens.count));
    if (!segment.key_blocks.empty()) visit(segment);
  }
}

/// Calls visit(segment) for every segment of a branch that has queries in the tokens [begin, end), in order.
template <class Visit>
void for_each_segment(const AttentionPlan& plan, std::int64_t length, const BranchPlan& branch,
                      const BranchPlan::Offset& offset, std::int64_t begin, std::int64_t end,
                      const Visit& visit) {
  end = (std::min)(end, length);
  if (begin >= end) return;
  if (plan.block_size > 0) return for_each_query_block(plan, length, *offset.pattern, begin, end, visit);
  const std::int64_t w = branch.segment_length;
  for (std::int64_t start = begin / w * w; start < end; start += w) {
    Segment segment;
    segment.begin = start;
    segment.end = (std::min)(start + w, length);
    segment.kept = offset.kept.sub(0, offset.kept.count_below(segment.end - start)).moved(start);
    const Progression asking =
        plan.query_rule == QueryRule::dilated ? segment.kept : Progression{start, 1, segment.end - start};
    segment.queries = asking.within(begin, end);
    if (segment.queries.count == 0) continue;
    if (plan.zero_keys) segment.zero_keys = ceil_div(w, branch.dilation_rate) - segment.kept.count;
    visit(segment);
  }
}

/// Calls visit(tokens) for the runs of a segment's keys that lie in the tokens [begin, end), in order.
template <class Visit>
void for_each_key_run(const Segment& segment, std::int64_t begin, std::int64_t end, const Visit& visit) {
  if (segment.block_size == 0) {
    const Progression tokens = segment.kept.within(begin, end);
    if (tokens.count > 0) visit(tokens);
    return;
  }
  const auto listed = segment.key_blocks;
  const auto from = std::lower_bound(listed.begin(), listed.end(), begin / segment.block_size);
  ListCursor cursor(std::span(from, listed.end()));
  for (; cursor.begin() != ListCursor::none; cursor.advance(cursor.end())) {
    const Progression tokens = block_tokens(cursor.begin(), cursor.end(), segment.block_size, segment.end);
    if (tokens.first >= end) return;
    if (const Progression within = tokens.within(begin, end); within.count > 0) visit(within);
  }
}

/// Writes the heads of [head_begin, head_end) that keep an offset class of a branch; returns how many.
inline std::int64_t heads_with_offset(const BranchPlan& branch, std::size_t offset, std::int64_t head_begin,
                                      std::int64_t head_end, std::int64_t* heads) {
  std::int64_t count = 0;
  for (std::int64_t head = (std::max)(head_begin, branch.head_begin);
       head < (std::min)(head_end, branch.head_end); ++head) {
    if (branch.offset_of_head[static_cast<std::size_t>(head - branch.head_begin)] == offset)
      heads[count++] = head;
  }
  return count;
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
