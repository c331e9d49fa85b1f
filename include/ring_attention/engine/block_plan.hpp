// BlockSparsePlan: which blocks meet in one block-sparse call, and how its rows are cut into tasks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ring_attention/config.hpp>
#include <ring_attention/engine/plan.hpp>
#include <ring_attention/engine/walk.hpp>
#include <ring_attention/pattern/block_sparse_config.hpp>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/pattern/pattern_cache.hpp>
#include <span>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

struct BlockSparsePlan {
  AttentionPlan rows;           ///< extents, scale, causality and lengths; its sequences have no branches
  std::int64_t block_size = 1;  ///< clipped to the sequence
  std::vector<PatternCache::Pattern> key_blocks;  ///< one per rows.sequences; list i: of query block i

  const DilatedIndices& lists_of(std::int64_t item) const {
    return *key_blocks[rows.sequence_of_item[static_cast<std::size_t>(item)]];
  }
};

namespace detail {

/// Throws std::invalid_argument for lengths or listed blocks that do not fit the shape.
inline BlockSparsePlan make_block_plan(AttentionConfig config, const BlockSparseConfig& sparse,
                                       const CallShape& shape, const std::vector<std::int64_t>& lengths,
                                       const PatternLookup& lookup) {
  // The block list takes the place of branches and rules.
  config.segment_lengths.clear();
  config.dilation_rates.clear();
  config.padding_rule = PaddingRule::masked;
  BlockSparsePlan plan;
  plan.rows = make_plan(config, shape, lengths, lookup);
  plan.block_size = std::min(sparse.block_size, std::max<std::int64_t>(shape.tokens, 1));
  if (shape.batch == 0 || shape.tokens == 0) return plan;
  check_block_range(sparse, shape.tokens);
  for (const SequencePlan& sequence : plan.rows.sequences) {
    plan.key_blocks.push_back(lookup(block_pattern_key(sparse, config.causal, sequence.length)));
  }
  return plan;
}

/// For each key block the query blocks that list it, ascending.
inline DilatedIndices transpose_lists(const DilatedIndices& lists) {
  const std::size_t blocks = lists.branches();
  std::vector<std::int64_t> begin(blocks + 1);
  for (std::size_t q = 0; q < blocks; ++q) {
    for (const std::int64_t k : lists.rows(q)) ++begin[static_cast<std::size_t>(k) + 1];
  }
  for (std::size_t k = 0; k < blocks; ++k) begin[k + 1] += begin[k];
  std::vector<std::int64_t> rows(static_cast<std::size_t>(begin.back()));
  std::vector<std::int64_t> next(begin.begin(), begin.end() - 1);
  for (std::size_t q = 0; q < blocks; ++q) {
    for (const std::int64_t k : lists.rows(q)) {
      rows[static_cast<std::size_t>(next[static_cast<std::size_t>(k)]++)] = static_cast<std::int64_t>(q);
    }
  }
  return DilatedIndices(std::move(begin), std::move(rows));
}

/// Blocks cut into slots of at most `rows` tokens, the unit in which a task holds one side's rows.
class BlockSlots {
 public:
  BlockSlots(std::int64_t tokens, std::int64_t block_size, std::int64_t rows)
      : block_size_(block_size),
        rows_(ceil_div(block_size, ceil_div(block_size, rows))),
        slots_per_block_(ceil_div(block_size, rows_)),
        count_(ceil_div(tokens, block_size) * slots_per_block_) {}

  std::int64_t count() const { return count_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t block(std::int64_t slot) const { return slot / slots_per_block_; }
  std::int64_t begin(std::int64_t slot) const {
    return block(slot) * block_size_ + std::min(slot % slots_per_block_ * rows_, block_size_);
  }
  /// Tokens of a slot; empty past `length`.
  TokenList tokens(std::int64_t slot, std::int64_t length) const {
    const std::int64_t first = std::min(begin(slot), length);
    return {first, nullptr, std::min(begin(slot + 1), length) - first};
  }

 private:
  std::int64_t block_size_, rows_, slots_per_block_, count_;
};

/// Consecutive slots of one batch item and key/value head.
struct SlotTask {
  std::int64_t item, kv_head;
  std::int64_t begin, end;  // slots
};

/// Numbers the tasks of a call. Later rows come first: when causal they have more keys.
class SlotTasks {
 public:
  /// As many slots as hold `rows` tokens together, and fewer where threads would go without work.
  SlotTasks(const CallShape& shape, const BlockSlots& slots, std::int64_t rows, int threads)
      : columns_(shape.batch * shape.kv_heads), kv_heads_(shape.kv_heads), slots_(slots.count()) {
    constexpr std::int64_t tasks_per_thread = 4;
    // The more lists are walked together, the shorter are the runs of blocks that the same ones hold.
    constexpr std::int64_t most_slots = 16;
    slots_per_task_ = std::clamp<std::int64_t>(rows / slots.rows(), 1, most_slots);
    while (slots_per_task_ > 1 && count() < tasks_per_thread * threads) slots_per_task_ /= 2;
  }

  std::int64_t slots_per_task() const { return slots_per_task_; }
  std::int64_t count() const { return ceil_div(slots_, slots_per_task_) * columns_; }
  /// Batch items times key/value heads; tasks whose numbers differ by a multiple of it share both.
  std::int64_t columns() const { return columns_; }
  SlotTask task(std::int64_t index) const {
    const std::int64_t run = ceil_div(slots_, slots_per_task_) - 1 - index / columns_;
    const std::int64_t column = index % columns_;
    return {column / kv_heads_, column % kv_heads_, run * slots_per_task_,
            std::min(slots_, (run + 1) * slots_per_task_)};
  }

 private:
  std::int64_t columns_, kv_heads_, slots_, slots_per_task_;
};

/// A place in an ascending list of blocks: the run of consecutive blocks that comes next.
class ListCursor {
 public:
  static constexpr std::int64_t none = std::numeric_limits<std::int64_t>::max();

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

/// Walks ascending lists together: calls visit(begin, end) for the longest runs of blocks that the same lists
/// hold, in order. Those are the lists whose cursor begins at `begin`.
template <class Visit>
void walk_lists(std::span<ListCursor> cursors, const Visit& visit) {
  for (;;) {
    std::int64_t begin = ListCursor::none;
    for (const ListCursor& cursor : cursors) begin = std::min(begin, cursor.begin());
    if (begin == ListCursor::none) return;
    std::int64_t end = ListCursor::none;
    for (const ListCursor& cursor : cursors) {
      end = std::min(end, cursor.begin() == begin ? cursor.end() : cursor.begin());
    }
    visit(begin, end);
    for (ListCursor& cursor : cursors) {
      if (cursor.begin() == begin) cursor.advance(end);
    }
  }
}

/// The list of a block; empty for blocks past an item's length.
inline std::span<const std::int64_t> list_of(const DilatedIndices& lists, std::int64_t block) {
  const auto index = static_cast<std::size_t>(block);
  return index < lists.branches() ? lists.rows(index) : std::span<const std::int64_t>();
}

/// Tokens of the blocks [begin, end).
inline TokenList block_tokens(std::int64_t begin, std::int64_t end, std::int64_t block_size,
                              std::int64_t length) {
  const std::int64_t first = begin * block_size;
  return {first, nullptr, (end < blocks_of(length, block_size) ? end * block_size : length) - first};
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
