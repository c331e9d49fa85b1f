// How a block-sparse call is divided over threads: slots of blocks, and tasks of slots.
#pragma once

#include <algorithm>
#include <cstdint>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

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
    return block(slot) * block_size_ + (std::min)(slot % slots_per_block_ * rows_, block_size_);
  }
  /// Tokens of a slot; empty past `length`.
  Progression tokens(std::int64_t slot, std::int64_t length) const {
    const std::int64_t first = (std::min)(begin(slot), length);
    return {first, 1, (std::min)(begin(slot + 1), length) - first};
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
  SlotTasks(const CallShape& shape, const BlockSlots& block_slots, std::int64_t rows, int threads)
      : columns_(shape.batch * shape.kv_heads), kv_heads_(shape.kv_heads), slots_(block_slots.count()) {
    constexpr std::int64_t tasks_per_thread = 4;
    // The more lists are walked together, the shorter are the runs of blocks that the same ones hold.
    constexpr std::int64_t most_slots = 16;
    slots_per_task_ = std::clamp<std::int64_t>(rows / block_slots.rows(), 1, most_slots);
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
            (std::min)(slots_, (run + 1) * slots_per_task_)};
  }

 private:
  std::int64_t columns_, kv_heads_, slots_, slots_per_task_;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
