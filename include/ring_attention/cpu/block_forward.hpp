// Block-sparse forward pass in one process over whole tensors.
//
// One task owns a run of query rows of neighbouring query blocks, for all heads that share a key/value head.
// Each run of key blocks is packed once and attended by those of the task's query blocks that list it.
// Blocks that no list holds are never looked at.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <ring_attention/aligned_block.hpp>
#include <ring_attention/cpu/block_tasks.hpp>
#include <ring_attention/cpu/blocks.hpp>
#include <ring_attention/cpu/forward_pass.hpp>
#include <ring_attention/cpu/query_tiles.hpp>
#include <ring_attention/cpu/workspace.hpp>
#include <ring_attention/kernel/execution.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <span>
#include <type_traits>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Rows that a task serves at once: many, because each packed key then meets more queries, yet few enough
/// that queries and outputs stay in the second-level cache.
template <class T>
std::int64_t block_rows_per_task(const CallShape& shape) {
  constexpr std::int64_t state_elements = (std::int64_t{1} << 18) / static_cast<std::int64_t>(sizeof(T));
  constexpr std::int64_t fewest_entries = 64;
  const std::int64_t entries = (std::max)(fewest_entries, state_elements / shape.head_dim);
  return std::max<std::int64_t>(1, entries / (shape.heads / shape.kv_heads));
}

template <class Scalar>
class BlockForward {
  using T = accumulator_t<Scalar>;
  using Tiles = QueryTiles<Scalar>;
  static constexpr std::int64_t run_keys = 512;

 public:
  BlockForward(const AttentionPlan& plan, const detail::ForwardTensors<Scalar>& tensors,
               const ForwardKernel<Scalar>& kernel, int threads)
      : plan_(plan),
        tensors_(tensors),
        kernel_(kernel),
        threads_(threads),
        group_(plan.shape.heads / plan.shape.kv_heads),
        rows_(block_rows_per_task<T>(plan.shape)),
        slots_(plan.shape.tokens, plan.block_size, rows_),
        tasks_(plan.shape, slots_, rows_, threads),
        pass_(plan, tensors, kernel) {}

  void run(detail::Block& memory) const {
    const auto lay_out = [this](detail::Carver& carver) {
      return detail::ThreadParts(carver, threads_, [this](detail::Carver& part) { Workspace(part, *this); });
    };
    detail::Carver count;
    lay_out(count);
    detail::Carver carver(memory.reserve(count.used()));
    const detail::ThreadParts parts = lay_out(carver);
    detail::parallel_for(tasks_.count(), threads_, [&](std::int64_t index, int worker) {
      detail::Carver part = parts.of(worker);
      Workspace work(part, *this);
      attend(tasks_.task(index), work);
    });
  }

 private:
  /// Memory of one thread.
  struct Workspace {
    Workspace(detail::Carver& carver, const BlockForward& call)
        : buffers(carver, call.kernel_, {0, run_keys, call.plan_.shape.head_dim}) {
      const std::int64_t slot_count = call.tasks_.slots_per_task();
      const std::int64_t entries = call.group_ * call.slots_.rows();
      tiles = carver.take<Tiles>(slot_count);
      for (std::int64_t i = 0; i < slot_count; ++i) {
        const Tiles laid_out(carver, entries, buffers);
        if (tiles != nullptr) std::construct_at(tiles + i, laid_out);
      }
      const std::int64_t rows = entries * slot_count;
      states.output = carver.take<T>(rows * call.kernel_.tile.padded(call.plan_.shape.head_dim));
      states.maximum = carver.take<T>(rows);
      states.sum = carver.take<T>(rows);
      heads = carver.take<std::int64_t>(call.group_);
      cursors = carver.take<detail::ListCursor>(slot_count);
    }

    static_assert(std::is_trivially_destructible_v<Tiles>);

    KeyBuffers<Scalar> buffers;
    Tiles* tiles;
    RowStates<T> states;
    std::int64_t* heads;
    detail::ListCursor* cursors;
  };

  void attend(const detail::SlotTask& slot_run, Workspace& work) const {
    const std::int64_t length = plan_.sequence_of(slot_run.item).length;
    const ForwardTask task = task_of(slot_run, length);
    RowStates<T> states = work.states;
    states.head_stride = task.end - task.begin;
    states.first_head = task.head_begin;
    states.first_token = task.begin;
    pass_.reset(task, states);
    std::iota(work.heads, work.heads + group_, task.head_begin);
    const auto query_set = [&](std::int64_t slot) {
      return QuerySet{slot_run.item, work.heads, group_, slots_.tokens(slot, length)};
    };

    const BlockLists& lists = plan_.sequence_of(slot_run.item).blocks;
    const std::span cursors(work.cursors, static_cast<std::size_t>(slot_run.end - slot_run.begin));
    for (std::size_t i = 0; i < cursors.size(); ++i) {
      const QuerySet set = query_set(slot_run.begin + static_cast<std::int64_t>(i));
      cursors[i] = {};
      if (set.tokens.count == 0) continue;
      cursors[i] = detail::cursor_of(lists, slots_.block(slot_run.begin + static_cast<std::int64_t>(i)));
      work.tiles[i].load(set, {tensors_.q, {}}, plan_.scale, states);
    }
    const KeyTensors<const Scalar> all_keys{tensors_.k, tensors_.v, {}};
    for (detail::ListWalk runs(cursors); runs.next();) {
      const Progression tokens = detail::block_tokens(runs.begin(), runs.end(), plan_.block_size, length);
      const KeyPiece<Scalar> keys = piece_of<Scalar>(all_keys, {tokens}, slot_run.item, slot_run.kv_head);
      for (std::int64_t begin = 0; begin < tokens.count; begin += run_keys) {
        const auto run = keys.sub(begin, (std::min)(begin + run_keys, tokens.count));
        const PackedKeys packed = work.buffers.pack(run);
        for (std::size_t i = 0; i < cursors.size(); ++i) {
          if (runs.holds(i)) work.tiles[i].attend(packed, run.tokens, plan_.causal);
        }
      }
    }
    for (std::size_t i = 0; i < cursors.size(); ++i) {
      const QuerySet set = query_set(slot_run.begin + static_cast<std::int64_t>(i));
      if (set.tokens.count > 0) work.tiles[i].store(states);
    }
    pass_.finish(task, states);
  }

  ForwardTask task_of(const detail::SlotTask& slot_run, std::int64_t length) const {
    ForwardTask task{};
    task.item = slot_run.item;
    task.kv_head = slot_run.kv_head;
    task.head_begin = slot_run.kv_head * group_;
    task.head_end = task.head_begin + group_;
    task.begin = (std::min)(slots_.begin(slot_run.begin), plan_.shape.tokens);
    task.end = (std::min)(slots_.begin(slot_run.end), plan_.shape.tokens);
    task.valid_end = std::clamp(length, task.begin, task.end);
    return task;
  }

  const AttentionPlan& plan_;
  const detail::ForwardTensors<Scalar>& tensors_;
  const ForwardKernel<Scalar>& kernel_;
  int threads_;
  std::int64_t group_, rows_;
  detail::BlockSlots slots_;
  detail::SlotTasks tasks_;
  ForwardPass<Scalar> pass_;
};

/// Executes a block-sparse plan in `memory`, which it makes larger if need be.
template <class Scalar>
void forward_blocks(const AttentionPlan& plan, const detail::ForwardTensors<Scalar>& tensors,
                    const ForwardExecution<Scalar>& execution, detail::Block& memory) {
  if (plan.shape.batch == 0 || plan.shape.tokens == 0) return;
  BlockForward<Scalar>(plan, tensors, *execution.kernel, execution.threads).run(memory);
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
