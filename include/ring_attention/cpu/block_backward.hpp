// Block-sparse backward in one process over whole tensors.
//
// Two passes: one task of the first owns rows of query blocks and walks their key blocks; one of the second
// owns key blocks and walks, by the transposed lists, the query blocks that see them. Each gradient row thus
// has one owner, who sums it up in the accumulator type and writes it once: no atomics, no order that depends
// on chance, and no sums of the size of the sequence.
//
// The second pass alone does 5 products instead of 7 where gradients of queries can be summed up in place,
// that is in the caller's tensor and by one thread per batch item and key/value head.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <ring_attention/aligned_block.hpp>
#include <ring_attention/cpu/backward_arguments.hpp>
#include <ring_attention/cpu/backward_rows.hpp>
#include <ring_attention/cpu/block_tasks.hpp>
#include <ring_attention/cpu/blocks.hpp>
#include <ring_attention/cpu/gradient_tiles.hpp>
#include <ring_attention/cpu/workspace.hpp>
#include <ring_attention/gradient_views.hpp>
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

/// One call, and the layout of what it works in; with a carver that only counts, the layout alone.
template <class Scalar>
class BlockBackward {
  using T = accumulator_t<Scalar>;
  using Tiles = GradientTiles<Scalar>;
  using Workspace = BackwardWorkspace<Scalar>;

  /// How the rows of one side are cut into tasks, and memory for each thread.
  struct Side {
    detail::BlockSlots block_slots;
    detail::SlotTasks tasks;
    BackwardSizes sizes;
    detail::ThreadParts parts;
  };

 public:
  BlockBackward(detail::Carver& carver, const AttentionPlan& plan,
                const detail::BackwardTensors<Scalar>& tensors, const BackwardKernel<Scalar>& kernel,
                int threads)
      : plan_(plan),
        kernel_(kernel),
        tensors_(tensors),
        key_rows_{tensors.k, tensors.v, {}},
        threads_(threads),
        group_(plan.shape.heads / plan.shape.kv_heads),
        in_place_(std::is_same_v<T, Scalar> &&
                  (threads == 1 || plan.shape.batch * plan.shape.kv_heads >= 2 * threads)),
        queries_(cut((std::max)(std::int64_t{1}, BackwardSizes().group_entries / group_), threads)),
        keys_(cut(BackwardSizes().run_keys, in_place_ ? 1 : threads)) {
    const std::int64_t most = kernel.tile.max_queries();
    tiles_per_slot_ = detail::ceil_div(group_ * queries_.block_slots.rows(), most);
    queries_.sizes.group_entries = queries_.tasks.slots_per_task() * tiles_per_slot_ * most;
    keys_per_slot_ = kernel.tile.padded(keys_.block_slots.rows());
    keys_.sizes.group_entries = (std::max)(keys_.sizes.group_entries / most, std::int64_t{1}) * most;
    keys_.sizes.run_keys = keys_.tasks.slots_per_task() * keys_per_slot_;

    const CallShape& shape = plan.shape;
    delta_ = {carver.take<T>(shape.batch * shape.heads * shape.tokens), shape.heads, shape.tokens, 0};
    query_blocks_ = carver.take<BlockLists>(static_cast<std::int64_t>(plan.sequences.size()));
    for (std::size_t i = 0; i < plan.sequences.size(); ++i) {
      const BlockLists& lists = plan.sequences[i].blocks;
      auto* const begin = carver.take<std::int64_t>(static_cast<std::int64_t>(lists.count()) + 1);
      auto* const blocks = carver.take<std::int64_t>(static_cast<std::int64_t>(lists.blocks.size()));
      if (query_blocks_ != nullptr) query_blocks_[i] = detail::transpose_lists(lists, begin, blocks);
    }
    // The passes, one after the other, share the memory of the threads.
    const detail::Carver passes = carver;
    for (Side* one : {&queries_, &keys_}) {
      if (one == &queries_ && in_place_) continue;
      detail::Carver pass = passes;
      one->parts = detail::ThreadParts(pass, threads, [&](detail::Carver& part) {
        Workspace(part, kernel, one->sizes, shape);
        part.take<detail::ListCursor>(one->tasks.slots_per_task());
      });
      if (pass.used() > carver.used()) carver = pass;
    }
  }

  void run(const GradientViews<Scalar>& grads) {
    const BackwardQueries<Scalar> queries{tensors_, {}};
    row_deltas(plan_, kernel_, {0, plan_.shape.tokens}, queries, delta_, threads_);
    const Tiles tiles(plan_, kernel_, queries, delta_);
    if (in_place_) {
      clear_rows(grads.q, threads_);  // every key block adds to it
    } else {
      clear_rows_past_lengths(grads.q);
      query_pass(tiles, grads.q);
    }
    clear_rows_past_lengths(grads.k);
    clear_rows_past_lengths(grads.v);
    key_pass(tiles, grads);
  }

 private:
  Side cut(std::int64_t rows, int sharing) const {
    const detail::BlockSlots block_slots(plan_.shape.tokens, plan_.block_size, rows);
    return {block_slots, {plan_.shape, block_slots, rows, sharing}, {}, {}};
  }

  /// The passes write every row of an item's own tokens, and no other.
  void clear_rows_past_lengths(const TensorView<Scalar>& grad) const {
    for (std::int64_t item = 0; item < plan_.shape.batch; ++item) {
      for (std::int64_t token = plan_.sequence_of(item).length; token < plan_.shape.tokens; ++token) {
        for (std::int64_t head = 0; head < grad.shape()[2]; ++head) {
          std::fill_n(grad.row(item, token, head), plan_.shape.head_dim, Scalar(0));
        }
      }
    }
  }

  /// Calls body(task, workspace, cursors) for every task of a side, on all threads; `by_column`: one thread
  /// for all tasks of a batch item and key/value head.
  template <class Body>
  void for_each_task(const Side& side, bool by_column, const Body& body) {
    const detail::SlotTasks& tasks = side.tasks;
    const std::int64_t columns = by_column ? tasks.columns() : tasks.count();
    detail::parallel_for(columns, threads_, [&](std::int64_t column, int worker) {
      detail::Carver carver = side.parts.of(worker);
      Workspace work(carver, kernel_, side.sizes, plan_.shape);
      auto* const cursors = carver.take<detail::ListCursor>(tasks.slots_per_task());
      for (std::int64_t index = column; index < tasks.count(); index += columns) {
        const detail::SlotTask task = tasks.task(index);
        std::iota(work.heads, work.heads + group_, task.kv_head * group_);
        body(task, work, std::span(cursors, static_cast<std::size_t>(task.end - task.begin)));
      }
    });
  }

  void query_pass(const Tiles& tiles, const TensorView<Scalar>& grad_q) {
    const detail::BlockSlots& block_slots = queries_.block_slots;
    const std::int64_t run_keys = queries_.sizes.run_keys;
    constexpr GradientsWanted wanted{.queries = true};
    for_each_task(queries_, false, [&](const detail::SlotTask& task, Workspace& work, const auto& cursors) {
      const std::int64_t length = plan_.sequence_of(task.item).length;
      const auto query_set = [&](std::size_t i) {
        return QuerySet{task.item, work.heads, group_,
                        block_slots.tokens(task.begin + static_cast<std::int64_t>(i), length)};
      };
      const auto loaded = [&](std::size_t i) {
        return LoadedQueries{static_cast<std::int64_t>(i) * tiles_per_slot_, query_set(i).entries()};
      };
      for (std::size_t i = 0; i < cursors.size(); ++i) {
        const std::int64_t block = block_slots.block(task.begin + static_cast<std::int64_t>(i));
        cursors[i] = {};
        if (loaded(i).entries == 0) continue;
        cursors[i] = detail::cursor_of(plan_.sequence_of(task.item).blocks, block);
        tiles.load(query_set(i), 0, loaded(i), 0, work);
      }
      for (detail::ListWalk runs(cursors); runs.next();) {
        const Progression keys = detail::block_tokens(runs.begin(), runs.end(), plan_.block_size, length);
        for (std::int64_t first = 0; first < keys.count; first += run_keys) {
          const Progression run = keys.sub(first, (std::min)(first + run_keys, keys.count));
          tiles.pack(piece_of<Scalar>(key_rows_, {run}, task.item, task.kv_head), run.count, 0, wanted, work);
          for (std::size_t i = 0; i < cursors.size(); ++i) {
            if (runs.holds(i)) tiles.accumulate(loaded(i), run, 0, wanted, work);
          }
        }
      }
      for (std::size_t i = 0; i < cursors.size(); ++i) {
        const QuerySet set = query_set(i);
        for (std::int64_t entry = 0; entry < set.entries(); ++entry) {
          write_row(grad_q.row(task.item, set.token(entry), set.head(entry)),
                    tiles.grad_query(loaded(i), entry, work), tiles.scale());
        }
      }
    });
  }

  /// In place it adds the gradients of queries to grads.q, too.
  void key_pass(const Tiles& tiles, const GradientViews<Scalar>& grads) {
    const detail::BlockSlots& block_slots = keys_.block_slots;
    const std::int64_t group_entries = keys_.sizes.group_entries;
    const GradientsWanted wanted{.queries = in_place_, .keys = true};
    for_each_task(keys_, in_place_, [&](const detail::SlotTask& task, Workspace& work, const auto& cursors) {
      const std::int64_t length = plan_.sequence_of(task.item).length;
      const BlockLists& lists = query_blocks_[plan_.sequence_of_item[static_cast<std::size_t>(task.item)]];
      const auto keys = [&](std::size_t i) {
        return block_slots.tokens(task.begin + static_cast<std::int64_t>(i), length);
      };
      const auto position = [&](std::size_t i) { return static_cast<std::int64_t>(i) * keys_per_slot_; };
      for (std::size_t i = 0; i < cursors.size(); ++i) {
        const std::int64_t block = block_slots.block(task.begin + static_cast<std::int64_t>(i));
        cursors[i] = {};
        if (keys(i).count == 0) continue;
        cursors[i] = detail::cursor_of(lists, block);
        tiles.pack(piece_of<Scalar>(key_rows_, {keys(i)}, task.item, task.kv_head), keys(i).count,
                   position(i), wanted, work);
      }
      for (detail::ListWalk runs(cursors); runs.next();) {
        const QuerySet set{task.item, work.heads, group_,
                           detail::block_tokens(runs.begin(), runs.end(), plan_.block_size, length)};
        for (std::int64_t first = 0; first < set.entries(); first += group_entries) {
          const LoadedQueries loaded{0, (std::min)(group_entries, set.entries() - first)};
          tiles.load(set, first, loaded, 0, work);
          for (std::size_t i = 0; i < cursors.size(); ++i) {
            if (runs.holds(i)) tiles.accumulate(loaded, keys(i), position(i), wanted, work);
          }
          if (in_place_) add_query_gradients(tiles, grads.q, set, first, loaded, work);
        }
      }
      for (std::size_t i = 0; i < cursors.size(); ++i) {
        for (std::int64_t k = 0; k < keys(i).count; ++k) {
          write_row(grads.k.row(task.item, keys(i)[k], task.kv_head), tiles.grad_key(position(i) + k, work),
                    tiles.scale());
          write_row(grads.v.row(task.item, keys(i)[k], task.kv_head), tiles.grad_value(position(i) + k, work),
                    T{1});
        }
      }
    });
  }

  void add_query_gradients(const Tiles& tiles, const TensorView<Scalar>& grad_q, const QuerySet& set,
                           std::int64_t first, const LoadedQueries& loaded, const Workspace& work) const {
    for (std::int64_t local = 0; local < loaded.entries; ++local) {
      Scalar* to = grad_q.row(set.item, set.token(first + local), set.head(first + local));
      const T* from = tiles.grad_query(loaded, local, work);
      for (std::int64_t d = 0; d < plan_.shape.head_dim; ++d) {
        to[d] = static_cast<Scalar>(static_cast<T>(to[d]) + tiles.scale() * from[d]);
      }
    }
  }

  void write_row(Scalar* to, const T* from, T factor) const {
    kernel_.round_row(from, factor, plan_.shape.head_dim, to);
  }

  const AttentionPlan& plan_;
  const BackwardKernel<Scalar>& kernel_;
  const detail::BackwardTensors<Scalar>& tensors_;
  KeyTensors<const Scalar> key_rows_;
  int threads_;
  std::int64_t group_;
  bool in_place_;  // gradients of queries: by the second pass alone
  Side queries_, keys_;
  std::int64_t tiles_per_slot_, keys_per_slot_;
  RowNumbers<T> delta_;
  BlockLists* query_blocks_;  // by sequence: for each key block the query blocks that list it
};

template <class Scalar>
void backward_blocks(const AttentionPlan& plan, const detail::BackwardTensors<Scalar>& tensors,
                     const GradientViews<Scalar>& grads, const BackwardExecution<Scalar>& execution,
                     detail::Block& memory) {
  if (plan.shape.batch == 0 || plan.shape.tokens == 0) return;
  const auto lay_out = [&](detail::Carver& carver) {
    return BlockBackward<Scalar>(carver, plan, tensors, *execution.kernel, execution.threads);
  };
  detail::Carver count;
  lay_out(count);
  detail::Carver carver(memory.reserve(count.used()));
  lay_out(carver).run(grads);
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
