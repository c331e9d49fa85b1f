// The CPU backend's forward pass over the queries that one process or ring member holds.
//
// One task owns a block of query rows for heads that share a key/value head. It walks branches, offset
// classes and segments; for each it loads the rows into tiles, attends them to the kept keys piece by piece,
// and stores the state. Each packed key thus serves all query heads of the group and all rows of the block;
// all branches merge in one state, and no per-branch output exists.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <ring_attention/engine/forward_arguments.hpp>
#include <ring_attention/engine/plan.hpp>
#include <ring_attention/engine/query_tiles.hpp>
#include <ring_attention/engine/shards.hpp>
#include <ring_attention/engine/walk.hpp>
#include <ring_attention/engine/workspace.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// How a call is cut into tasks.
struct ForwardSizes {
  std::int64_t heads_per_task = 1;
  std::int64_t rows_per_task = 1;
  std::int64_t run_keys = 1;
};

/// Query rows [begin, end) for heads [head_begin, head_end) of one batch item, all with one key/value head.
struct ForwardTask {
  std::int64_t item, kv_head, head_begin, head_end;
  std::int64_t begin, end;  // tokens
  std::int64_t valid_end;   // rows from here on lie past the item's length
  std::int64_t row_shift;   // row of the member's tensors = token + row_shift
};

/// Numbers the tasks of a call over the token runs that a member owns: items x key/value heads x parts of a
/// head group x row blocks, later blocks first, because they have more keys when causal.
class ForwardTasks {
 public:
  ForwardTasks(const AttentionPlan& plan, const ForwardSizes& sizes) : plan_(&plan), sizes_(sizes) {
    group_ = plan.shape.heads / plan.shape.kv_heads;
    parts_ = detail::ceil_div(group_, sizes.heads_per_task);
    columns_ = plan.shape.batch * plan.shape.kv_heads * parts_;
  }

  std::int64_t blocks(std::int64_t tokens) const { return detail::ceil_div(tokens, sizes_.rows_per_task); }
  std::int64_t count(const detail::TokenRun& run) const { return blocks(run.size()) * columns_; }

  ForwardTask task(const detail::TokenRun& run, std::int64_t index) const {
    const std::int64_t block = blocks(run.size()) - 1 - index / columns_;
    std::int64_t rest = index % columns_;
    const std::int64_t part = rest % parts_;
    rest /= parts_;
    ForwardTask task{};
    task.kv_head = rest % plan_->shape.kv_heads;
    task.item = rest / plan_->shape.kv_heads;
    task.head_begin = task.kv_head * group_ + part * sizes_.heads_per_task;
    task.head_end = (std::min)(task.head_begin + sizes_.heads_per_task, (task.kv_head + 1) * group_);
    task.begin = run.begin + block * sizes_.rows_per_task;
    task.end = (std::min)(task.begin + sizes_.rows_per_task, run.end);
    task.valid_end = std::clamp(plan_->sequence_of(task.item).length, task.begin, task.end);
    task.row_shift = run.row_shift;
    return task;
  }

 private:
  const AttentionPlan* plan_;
  ForwardSizes sizes_;
  std::int64_t group_, parts_, columns_;
};

/// Memory of one thread.
template <class Scalar>
struct ForwardWorkspace {
  using T = accumulator_t<Scalar>;

  /// `own_state`: the thread keeps its task's state, too. A ring keeps all states between hops instead.
  ForwardWorkspace(detail::Carver& carver, const TileKernel<Scalar>& kernel, const ForwardSizes& sizes,
                   std::int64_t head_dim, bool own_state)
      : tiles(carver, kernel, {sizes.heads_per_task * sizes.rows_per_task, sizes.run_keys, head_dim}) {
    const std::int64_t rows = own_state ? sizes.heads_per_task * sizes.rows_per_task : 0;
    states.output = carver.take<T>(rows * kernel.padded(head_dim));
    states.maximum = carver.take<T>(rows);
    states.sum = carver.take<T>(rows);
    heads = carver.take<std::int64_t>(sizes.heads_per_task);
  }

  QueryTiles<Scalar> tiles;
  RowStates<T> states;
  std::int64_t* heads;
};

template <class Scalar>
class ForwardPass {
  using T = accumulator_t<Scalar>;
  using Workspace = ForwardWorkspace<Scalar>;

 public:
  ForwardPass(const AttentionPlan& plan, const ForwardTensors<Scalar>& tensors,
              const TileKernel<Scalar>& kernel)
      : plan_(plan),
        tensors_(tensors),
        kernel_(kernel),
        head_dim_(plan.shape.head_dim),
        padded_dim_(kernel.padded(plan.shape.head_dim)) {}

  /// Sets a task's rows to the state of rows without keys.
  void reset(const ForwardTask& task, const RowStates<T>& states) const {
    for (std::int64_t head = task.head_begin; head < task.head_end; ++head) {
      const std::int64_t row = states.row(head, task.begin);
      const std::int64_t rows = task.valid_end - task.begin;
      std::fill_n(states.output + row * padded_dim_, rows * padded_dim_, T{0});
      std::fill_n(states.maximum + row, rows, -std::numeric_limits<T>::infinity());
      std::fill_n(states.sum + row, rows, T{0});
    }
  }

  /// Merges the zero keys of every branch into a task's rows.
  void absorb_zero_keys(const ForwardTask& task, const RowStates<T>& states, Workspace& work) const {
    if (!plan_.zero_keys) return;
    for_each_query_set(task, work,
                       [&](std::size_t, std::size_t, const detail::Segment& segment, const QuerySet& set) {
                         if (segment.zero_keys > 0) absorb_zero_keys(set, segment.zero_keys, states);
                       });
  }

  /// Attends a task's rows to keys. find(branch, offset, segment, task, visit) calls visit(KeyPiece) for each
  /// piece of the segment's kept rows that is at hand.
  template <class FindPieces>
  void attend(const ForwardTask& task, const RowStates<T>& states, Workspace& work,
              const FindPieces& find) const {
    for_each_query_set(
        task, work,
        [&](std::size_t branch, std::size_t offset, const detail::Segment& segment, const QuerySet& set) {
          const std::int64_t last_query = set.tokens.last();
          bool loaded = false;
          find(branch, offset, segment, task, [&](KeyPiece<Scalar> piece) {
            if (plan_.causal) piece.tokens = piece.tokens.sub(0, piece.tokens.count_below(last_query + 1));
            if (piece.tokens.count == 0) return;
            if (!loaded) work.tiles.load(set, tensors_.q, plan_.scale, states);
            loaded = true;
            work.tiles.attend(piece, plan_.causal);
          });
          if (loaded) work.tiles.store(set, states);
        });
  }

  /// out = O / l, lse = ln 2 * (m + log2 l); rows without keys and rows past the item's length: 0 and
  /// -infinity.
  void finish(const ForwardTask& task, const RowStates<T>& states) const {
    for (std::int64_t head = task.head_begin; head < task.head_end; ++head) {
      for (std::int64_t token = task.begin; token < task.end; ++token) {
        Scalar* out = tensors_.out.row(task.item, token + task.row_shift, head);
        T lse = -std::numeric_limits<T>::infinity();
        const std::int64_t row = states.row(head, token);
        if (token < task.valid_end && states.sum[row] != T{0}) {
          kernel_.round_row(states.output + row * padded_dim_, T{1} / states.sum[row], head_dim_, out);
          lse = std::numbers::ln2_v<T> * (states.maximum[row] + std::log2(states.sum[row]));
        } else {
          std::fill_n(out, head_dim_, Scalar(0));
        }
        if (tensors_.lse.data() != nullptr) *tensors_.lse.row(task.item, head, token + task.row_shift) = lse;
      }
    }
  }

 private:
  /// Calls visit(branch, offset, segment, query set) for everything that a task's rows take part in.
  template <class Visit>
  void for_each_query_set(const ForwardTask& task, Workspace& work, const Visit& visit) const {
    const SequencePlan& sequence = plan_.sequence_of(task.item);
    for (std::size_t b = 0; b < sequence.branches.size(); ++b) {
      const BranchPlan& branch = sequence.branches[b];
      for (std::size_t o = 0; o < branch.offsets.size(); ++o) {
        const std::int64_t heads =
            detail::heads_with_offset(branch, o, task.head_begin, task.head_end, work.heads);
        if (heads == 0) continue;
        detail::for_each_segment(
            plan_, sequence.length, branch, branch.offsets[o], task.begin, task.end,
            [&](const detail::Segment& segment) {
              visit(b, o, segment,
                    QuerySet{task.item, work.heads, heads, segment.queries, task.row_shift, 0});
            });
      }
    }
  }

  /// Merges the state m = 0, l = z, O = 0: z keys of score 0 and value 0 (torchscale's padding, never in
  /// memory).
  void absorb_zero_keys(const QuerySet& set, std::int64_t zero_keys, const RowStates<T>& states) const {
    for (std::int64_t entry = 0; entry < set.entries(); ++entry) {
      const std::int64_t row = states.row(set.head(entry), set.token(entry));
      const T before = states.maximum[row];
      const T maximum = (std::max)(before, T{0});
      const T factor = std::exp2(before - maximum);
      states.maximum[row] = maximum;
      states.sum[row] = states.sum[row] * factor + static_cast<T>(zero_keys) * std::exp2(-maximum);
      if (factor == T{1}) continue;
      T* output = states.output + row * padded_dim_;
      for (std::int64_t d = 0; d < head_dim_; ++d) output[d] *= factor;
    }
  }

  const AttentionPlan& plan_;
  const ForwardTensors<Scalar>& tensors_;
  const TileKernel<Scalar>& kernel_;
  std::int64_t head_dim_;
  std::int64_t padded_dim_;
};

/// Tokens of a member's own tensors, whose rows are `token + row_shift`.
template <class Element>
Rows<Element> rows_of(const TensorView<Element>& tensor, const Progression& tokens, std::int64_t row_shift,
                      std::int64_t item, std::int64_t head) {
  if (tokens.count == 0) return {};
  return {tensor.row(item, tokens.first + row_shift, head), tensor.strides()[1] * tokens.stride};
}

template <class Scalar>
KeyPiece<Scalar> piece_of(const TensorView<const Scalar>& k, const TensorView<const Scalar>& v,
                          const Progression& tokens, std::int64_t row_shift, std::int64_t item,
                          std::int64_t kv_head) {
  return {tokens, rows_of(k, tokens, row_shift, item, kv_head), rows_of(v, tokens, row_shift, item, kv_head)};
}

/// Calls visit(piece) for the pieces of a segment's keys that lie in a run of a member's own tensors.
template <class Scalar, class Visit>
void for_each_local_piece(const TensorView<const Scalar>& k, const TensorView<const Scalar>& v,
                          const detail::TokenRun& run, const detail::Segment& segment, std::int64_t item,
                          std::int64_t kv_head, const Visit& visit) {
  detail::for_each_key_run(segment, run.begin, run.end, [&](const Progression& tokens) {
    visit(piece_of(k, v, tokens, run.row_shift, item, kv_head));
  });
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
