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
#include <ring_attention/cpu/backward_rows.hpp>
#include <ring_attention/cpu/backward_units.hpp>
#include <ring_attention/cpu/block_forward.hpp>
#include <ring_attention/cpu/execution.hpp>
#include <ring_attention/cpu/gradient_tiles.hpp>
#include <ring_attention/cpu/whole_backward.hpp>
#include <ring_attention/cpu/workspace.hpp>
#include <ring_attention/gradient_views.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/plan/block_plan.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <span>
#include <type_traits>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

template <class Scalar>
class BlockBackward {
  using T = accumulator_t<Scalar>;
  using Tiles = GradientTiles<Scalar>;
  using Workspace = BackwardWorkspace<Scalar>;

 public:
  BlockBackward(const AttentionPlan& plan, const detail::BackwardTensors<Scalar>& tensors,
                const Execution<Scalar>& execution)
      : plan_(plan),
        kernel_(*execution.kernel),
        tensors_(tensors),
        keys_{tensors.k, tensors.v, {}},
        threads_(execution.threads),
        group_(plan.shape.heads / plan.shape.kv_heads),
        delta_storage_(1, plan.shape.batch, plan.shape.heads, plan.shape.tokens),
        tiles_(plan, kernel_, {tensors.q, tensors.grad_out, tensors.lse}, delta()) {}

  void run(const GradientViews<Scalar>& grads) {
    row_deltas(plan_, kernel_, {0, plan_.shape.tokens, 0, 0},
               BackwardQueries<Scalar>{tensors_.q, tensors_.grad_out, tensors_.lse}, tensors_.out,
               tensors_.grad_lse, delta(), threads_);
    const std::int64_t columns = plan_.shape.batch * plan_.shape.kv_heads;
    const bool in_place = std::is_same_v<T, Scalar> && (threads_ == 1 || columns >= 2 * threads_);
    if (in_place) {
      clear_rows(grads.q, threads_);  // every key block adds to it
    } else {
      clear_rows_past_lengths(grads.q);
      query_pass(grads.q);
    }
    clear_rows_past_lengths(grads.k);
    clear_rows_past_lengths(grads.v);
    key_pass(grads, in_place);
  }

 private:
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

  RowNumbers<T> delta() { return {delta_storage_.data(), plan_.shape.heads, plan_.shape.tokens, 0}; }

  /// Calls body(task, workspace, cursors) for every task, on all threads; `by_column`: one thread for all
  /// tasks of a batch item and key/value head.
  template <class Body>
  void for_each_task(const detail::SlotTasks& tasks, const BackwardSizes& sizes, bool by_column,
                     const Body& body) {
    detail::Carver count;
    Workspace(count, kernel_, sizes, plan_.shape);
    std::byte* const memory = memory_.reserve(count.used() * static_cast<std::size_t>(threads_));
    std::vector<std::vector<detail::ListCursor>> cursors(
        static_cast<std::size_t>(threads_),
        std::vector<detail::ListCursor>(static_cast<std::size_t>(tasks.slots_per_task())));
    const std::int64_t columns = by_column ? tasks.columns() : tasks.count();
    detail::parallel_for(columns, threads_, [&](std::int64_t column, int worker) {
      const auto thread = static_cast<std::size_t>(worker);
      detail::Carver carver(memory + count.used() * thread);
      Workspace work(carver, kernel_, sizes, plan_.shape);
      for (std::int64_t index = column; index < tasks.count(); index += columns) {
        const detail::SlotTask task = tasks.task(index);
        std::iota(work.heads, work.heads + group_, task.kv_head * group_);
        body(task, work, std::span(cursors[thread]).first(static_cast<std::size_t>(task.end - task.begin)));
      }
    });
  }

  void query_pass(const TensorView<Scalar>& grad_q) {
    BackwardSizes sizes;
    const std::int64_t rows = std::max<std::int64_t>(1, sizes.group_entries / group_);
    const detail::BlockSlots block_slots(plan_.shape.tokens, plan_.block_size, rows);
    const detail::SlotTasks tasks(plan_.shape, block_slots, rows, threads_);
    const std::int64_t tiles_per_slot = detail::ceil_div(group_ * block_slots.rows(), tiles_.most);
    sizes.group_entries = tasks.slots_per_task() * tiles_per_slot * tiles_.most;
    constexpr GradientsWanted wanted{.queries = true};
    for_each_task(
        tasks, sizes, false, [&](const detail::SlotTask& task, Workspace& work, const auto& cursors) {
          const std::int64_t length = plan_.sequence_of(task.item).length;
          const auto query_set = [&](std::size_t i) {
            return QuerySet{task.item, work.heads,
                            group_,    block_slots.tokens(task.begin + static_cast<std::int64_t>(i), length),
                            0,         0};
          };
          const auto loaded = [&](std::size_t i) {
            return LoadedQueries{static_cast<std::int64_t>(i) * tiles_per_slot, query_set(i).entries()};
          };
          for (std::size_t i = 0; i < cursors.size(); ++i) {
            const std::int64_t block = block_slots.block(task.begin + static_cast<std::int64_t>(i));
            cursors[i] = {};
            if (loaded(i).entries == 0) continue;
            cursors[i] = detail::cursor_of(plan_.sequence_of(task.item).blocks, block);
            tiles_.load(query_set(i), 0, loaded(i), 0, work);
          }
          for (detail::ListWalk runs(cursors); runs.next();) {
            const Progression keys = detail::block_tokens(runs.begin(), runs.end(), plan_.block_size, length);
            for (std::int64_t first = 0; first < keys.count; first += sizes.run_keys) {
              const Progression run = keys.sub(first, (std::min)(first + sizes.run_keys, keys.count));
              tiles_.pack(piece_of<Scalar>(keys_, {run}, task.item, task.kv_head), run.count, 0, wanted,
                          work);
              for (std::size_t i = 0; i < cursors.size(); ++i) {
                if (runs.holds(i)) tiles_.accumulate(loaded(i), run, 0, wanted, work);
              }
            }
          }
          for (std::size_t i = 0; i < cursors.size(); ++i) {
            const QuerySet set = query_set(i);
            for (std::int64_t entry = 0; entry < set.entries(); ++entry) {
              write_row(grad_q.row(task.item, set.token(entry), set.head(entry)),
                        tiles_.grad_query(loaded(i), entry, work), tiles_.scale());
            }
          }
        });
  }

  /// `with_queries`: adds the gradients of queries to grads.q, too.
  void key_pass(const GradientViews<Scalar>& grads, bool with_queries) {
    std::vector<detail::OwnedBlockLists> query_blocks;
    for (const SequencePlan& sequence : plan_.sequences) {
      query_blocks.push_back(detail::transpose_lists(sequence.blocks));
    }
    BackwardSizes sizes;
    sizes.group_entries = (std::max)(sizes.group_entries / tiles_.most, std::int64_t{1}) * tiles_.most;
    const detail::BlockSlots block_slots(plan_.shape.tokens, plan_.block_size, sizes.run_keys);
    const detail::SlotTasks tasks(plan_.shape, block_slots, sizes.run_keys, with_queries ? 1 : threads_);
    const std::int64_t keys_per_slot = kernel_.padded(block_slots.rows());
    sizes.run_keys = tasks.slots_per_task() * keys_per_slot;
    const GradientsWanted wanted{.queries = with_queries, .keys = true};
    for_each_task(
        tasks, sizes, with_queries, [&](const detail::SlotTask& task, Workspace& work, const auto& cursors) {
          const std::int64_t length = plan_.sequence_of(task.item).length;
          const BlockLists lists =
              query_blocks[plan_.sequence_of_item[static_cast<std::size_t>(task.item)]].view();
          const auto keys = [&](std::size_t i) {
            return block_slots.tokens(task.begin + static_cast<std::int64_t>(i), length);
          };
          const auto position = [&](std::size_t i) { return static_cast<std::int64_t>(i) * keys_per_slot; };
          for (std::size_t i = 0; i < cursors.size(); ++i) {
            const std::int64_t block = block_slots.block(task.begin + static_cast<std::int64_t>(i));
            cursors[i] = {};
            if (keys(i).count == 0) continue;
            cursors[i] = detail::cursor_of(lists, block);
            tiles_.pack(piece_of<Scalar>(keys_, {keys(i)}, task.item, task.kv_head), keys(i).count,
                        position(i), wanted, work);
          }
          for (detail::ListWalk runs(cursors); runs.next();) {
            const QuerySet set{
                task.item, work.heads,
                group_,    detail::block_tokens(runs.begin(), runs.end(), plan_.block_size, length),
                0,         0};
            for (std::int64_t first = 0; first < set.entries(); first += sizes.group_entries) {
              const LoadedQueries loaded{0, (std::min)(sizes.group_entries, set.entries() - first)};
              tiles_.load(set, first, loaded, 0, work);
              for (std::size_t i = 0; i < cursors.size(); ++i) {
                if (runs.holds(i)) tiles_.accumulate(loaded, keys(i), position(i), wanted, work);
              }
              if (with_queries) add_query_gradients(grads.q, set, first, loaded, work);
            }
          }
          for (std::size_t i = 0; i < cursors.size(); ++i) {
            for (std::int64_t k = 0; k < keys(i).count; ++k) {
              write_row(grads.k.row(task.item, keys(i)[k], task.kv_head),
                        tiles_.grad_key(position(i) + k, work), tiles_.scale());
              write_row(grads.v.row(task.item, keys(i)[k], task.kv_head),
                        tiles_.grad_value(position(i) + k, work), T{1});
            }
          }
        });
  }

  void add_query_gradients(const TensorView<Scalar>& grad_q, const QuerySet& set, std::int64_t first,
                           const LoadedQueries& loaded, const Workspace& work) const {
    for (std::int64_t local = 0; local < loaded.entries; ++local) {
      Scalar* to = grad_q.row(set.item, set.token(first + local), set.head(first + local));
      const T* from = tiles_.grad_query(loaded, local, work);
      for (std::int64_t d = 0; d < plan_.shape.head_dim; ++d) {
        to[d] = static_cast<Scalar>(static_cast<T>(to[d]) + tiles_.scale() * from[d]);
      }
    }
  }

  void write_row(Scalar* to, const T* from, T factor) const {
    kernel_.round_row(from, factor, plan_.shape.head_dim, to);
  }

  const AttentionPlan& plan_;
  const TileKernel<Scalar>& kernel_;
  const detail::BackwardTensors<Scalar>& tensors_;
  KeyTensors<const Scalar> keys_;
  int threads_;
  std::int64_t group_;
  detail::Block memory_;
  Tensor<T> delta_storage_;
  Tiles tiles_;
};

template <class Scalar>
void backward_blocks(const AttentionPlan& plan, const detail::BackwardTensors<Scalar>& tensors,
                     const GradientViews<Scalar>& grads, const Execution<Scalar>& execution) {
  if (plan.shape.batch == 0 || plan.shape.tokens == 0) return;
  BlockBackward<Scalar>(plan, tensors, execution).run(grads);
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
