// Lists of key blocks, one per query block: how they are walked.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ring_attention/pattern/block_sparse_config.hpp>
#include <ring_attention/pattern/progression.hpp>
#include <ring_attention/plan/plan.hpp>
#include <span>
#include <utility>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// For each key block the query blocks that list it, ascending. `begin` is memory for one number more than
/// there are lists, `blocks` for as many as all lists hold.
inline BlockLists transpose_lists(const BlockLists& lists, std::int64_t* begin, std::int64_t* blocks) {
  const std::size_t count = lists.count();
  std::fill_n(begin, count + 1, std::int64_t{0});
  for (const std::int64_t k : lists.blocks) ++begin[k + 1];
  for (std::size_t k = 0; k < count; ++k) begin[k + 1] += begin[k];
  // Filling moves each begin to the next one's, from where they are then moved back.
  for (std::size_t q = 0; q < count; ++q) {
    for (const std::int64_t k : lists.of(q)) blocks[begin[k]++] = static_cast<std::int64_t>(q);
  }
  std::copy_backward(begin, begin + count, begin + count + 1);
  begin[0] = 0;
  return {{begin, count + 1}, {blocks, lists.blocks.size()}};
}

/// A place in an ascending list of blocks: the run of consecutive blocks that comes next.
class ListCursor {
 public:
  static constexpr std::int64_t none = (std::numeric_limits<std::int64_t>::max)();

  ListCursor() = default;
  explicit ListCursor(std::span<const std::int64_t> list) : rest_(list) { next_run(); }

  /// First block of the run; none at the end of the list.
  std::int64_t begin() const { return begin_; }
  std::int64_t end() const { return end_; }

  /// Leaves out the blocks before `block`, which lies in the run or at its end.
  void advance(std::int64_t block) {
    begin_ = block;
    if (begin_ == end_) next_run();
  }

 private:
  void next_run() {
    begin_ = end_ = none;
    if (rest_.empty()) return;
    begin_ = rest_.front();
    std::size_t count = 1;
    while (count < rest_.size() && rest_[count] == rest_[count - 1] + 1) ++count;
    end_ = begin_ + static_cast<std::int64_t>(count);
    rest_ = rest_.subspan(count);
  }

  std::span<const std::int64_t> rest_;
  std::int64_t begin_ = none;
  std::int64_t end_ = none;
};

/// At the beginning of a block's list.
inline ListCursor cursor_of(const BlockLists& lists, std::int64_t block) {
  return ListCursor(lists.of(static_cast<std::size_t>(block)));
}

/// Walks ascending lists together: the longest runs of blocks [begin, end) that the same lists hold, in
/// order.
class ListWalk {
 public:
  /// The cursors stand at the lists' beginnings and move with the walk.
  explicit ListWalk(std::span<ListCursor> cursors) : cursors_(cursors) {}

  /// Goes to the next run; false at the end.
  bool next() {
    for (ListCursor& cursor : cursors_) {
      if (begin_ != ListCursor::none && cursor.begin() == begin_) cursor.advance(end_);
    }
    begin_ = end_ = ListCursor::none;
    for (const ListCursor& cursor : cursors_) begin_ = (std::min)(begin_, cursor.begin());
    if (begin_ == ListCursor::none) return false;
    for (const ListCursor& cursor : cursors_) {
      end_ = (std::min)(end_, cursor.begin() == begin_ ? cursor.end() : cursor.begin());
    }
    return true;
  }
  std::int64_t begin() const { return begin_; }
  std::int64_t end() const { return end_; }
  /// Whether list i holds the run.
  bool holds(std::size_t i) const { return cursors_[i].begin() == begin_; }

 private:
  std::span<ListCursor> cursors_;
  std::int64_t begin_ = ListCursor::none;
  std::int64_t end_ = ListCursor::none;
};

/// Tokens of the blocks [begin, end).
inline Progression block_tokens(std::int64_t begin, std::int64_t end, std::int64_t block_size,
                                std::int64_t length) {
  const std::int64_t first = begin * block_size;
  return {first, 1, (end < blocks_of(length, block_size) ? end * block_size : length) - first};
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
