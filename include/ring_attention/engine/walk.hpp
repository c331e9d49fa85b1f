// Walks the segments of a plan: which queries of a token range meet which kept rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/engine/plan.hpp>
#include <span>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// First position in an ascending list whose row is not below `row`.
inline std::int64_t position(std::span<const std::int64_t> rows, std::int64_t row) {
  return std::lower_bound(rows.begin(), rows.end(), row) - rows.begin();
}

/// Tokens picked by a list: token i is `base + index[i]`, or `base + i` without a list. Ascending.
struct TokenList {
  std::int64_t base = 0;
  const std::int64_t* index = nullptr;
  std::int64_t count = 0;

  std::int64_t operator[](std::int64_t i) const { return base + (index != nullptr ? index[i] : i); }

  TokenList sub(std::int64_t begin, std::int64_t end) const {
    return index != nullptr ? TokenList{base, index + begin, end - begin}
                            : TokenList{base + begin, index, end - begin};
  }

  /// Number of tokens that are not after `token`.
  std::int64_t count_until(std::int64_t token) const {
    if (index == nullptr) return std::clamp<std::int64_t>(token - base, -1, count - 1) + 1;
    return std::upper_bound(index, index + count, token - base) - index;
  }
};

/// One segment of one branch as one offset class sees it.
struct Segment {
  std::int64_t begin = 0;
  std::int64_t end = 0;        ///< cut off at the sequence's length
  TokenList kept;              ///< its keys
  TokenList queries;           ///< queries of the walked range that attend to them; not empty
  std::int64_t zero_keys = 0;  ///< rows of padding that every query attends to as well
};

/// Calls visit(segment) for every segment of a branch that has queries in the tokens [begin, end), in order.
template <class Visit>
void for_each_segment(const AttentionPlan& plan, std::int64_t length, const BranchPlan& branch,
                      const BranchPlan::Offset& offset, std::int64_t begin, std::int64_t end,
                      const Visit& visit) {
  end = std::min(end, length);
  if (begin >= end) return;
  const std::span<const std::int64_t> rows = offset.pattern->rows();
  const std::int64_t w = branch.segment_length;
  for (std::int64_t start = begin / w * w; start < end; start += w) {
    Segment segment;
    segment.begin = start;
    segment.end = std::min(start + w, length);
    segment.kept = {start, rows.data(), position(rows, segment.end - start)};
    const std::int64_t first = std::max(begin, start) - start;
    const std::int64_t last = std::min(end, segment.end) - start;
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
  return segment.kept.sub(first, std::max(first, position(rows, end - segment.begin)));
}

/// Writes the heads of [head_begin, head_end) that keep an offset class of a branch; returns how many.
inline std::int64_t heads_with_offset(const BranchPlan& branch, std::size_t offset, std::int64_t head_begin,
                                      std::int64_t head_end, std::int64_t* heads) {
  std::int64_t count = 0;
  for (std::int64_t head = std::max(head_begin, branch.head_begin);
       head < std::min(head_end, branch.head_end); ++head) {
    if (branch.offset_of_head[static_cast<std::size_t>(head - branch.head_begin)] == offset)
      heads[count++] = head;
  }
  return count;
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
