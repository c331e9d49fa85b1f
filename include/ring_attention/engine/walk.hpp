// Walks the segments of a plan: which queries of a token range meet which kept rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/engine/block_lists.hpp>
#include <ring_attention/engine/plan.hpp>
#include <ring_attention/engine/token_list.hpp>
#include <span>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// One segment of one branch as one offset class sees it; or one query block and the keys that it lists.
struct Segment {
  std::int64_t begin = 0;
  std::int64_t end = 0;         ///< cut off at the sequence's length
  TokenList kept;               ///< its keys; not used where blocks are listed
  TokenList queries;            ///< queries of the walked range that attend to them; not empty
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
    const TokenList tokens = block_tokens(block, block + 1, plan.block_size, length);
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
  const std::span<const std::int64_t> rows = offset.pattern->rows();
  const std::int64_t w = branch.segment_length;
  for (std::int64_t start = begin / w * w; start < end; start += w) {
    Segment segment;
    segment.begin = start;
    segment.end = (std::min)(start + w, length);
    segment.kept = {start, rows.data(), position(rows, segment.end - start)};
    const std::int64_t first = (std::max)(begin, start) - start;
    const std::int64_t last = (std::min)(end, segment.end) - start;
    segment.queries = plan.query_rule == QueryRule::dilated
                          ? segment.kept.sub(position(rows, first), position(rows, last))
                          : TokenList{start + first, nullptr, last - first};
    if (segment.queries.count == 0) continue;
    if (plan.zero_keys) segment.zero_keys = ceil_div(w, branch.dilation_rate) - segment.kept.count;
    visit(segment);
  }
}

/// Part of a segment's kept rows that lies in the tokens [begin, end).
inline TokenList kept_within(const Segment& segment, std::int64_t begin, std::int64_t end) {
  const std::span<const std::int64_t> rows(segment.kept.index, static_cast<std::size_t>(segment.kept.count));
  const std::int64_t first = position(rows, begin - segment.begin);
  return segment.kept.sub(first, (std::max)(first, position(rows, end - segment.begin)));
}

/// Calls visit(tokens) for the runs of a segment's keys that lie in the tokens [begin, end), in order.
template <class Visit>
void for_each_key_run(const Segment& segment, std::int64_t begin, std::int64_t end, const Visit& visit) {
  if (segment.block_size == 0) {
    const TokenList tokens = kept_within(segment, begin, end);
    if (tokens.count > 0) visit(tokens);
    return;
  }
  const std::int64_t skipped = position(segment.key_blocks, begin / segment.block_size);
  ListCursor cursor(segment.key_blocks.subspan(static_cast<std::size_t>(skipped)));
  for (; cursor.begin() != ListCursor::none; cursor.advance(cursor.end())) {
    const TokenList tokens = block_tokens(cursor.begin(), cursor.end(), segment.block_size, segment.end);
    if (tokens.base >= end) return;
    const std::int64_t first = (std::max)(begin - tokens.base, std::int64_t{0});
    const std::int64_t last = (std::min)(end - tokens.base, tokens.count);
    if (first < last) visit(tokens.sub(first, last));
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
