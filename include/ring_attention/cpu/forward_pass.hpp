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
#include <ring_attention/cpu/forward_arguments.hpp>
#include <ring_attention/cpu/forward_tasks.hpp>
#include <ring_attention/cpu/query_tiles.hpp>
#include <ring_attention/cpu/softmax_state.hpp>
#include <ring_attention/cpu/workspace.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/plan/meetings.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/plan/shards.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Memory of one thread.
template <class Scalar>
struct ForwardWorkspace {
  using T = accumulator_t<Scalar>;

  /// `own_state`: the thread keeps its task's state, too. A ring keeps all states between hops instead.
  ForwardWorkspace(detail::Carver& carver, const ForwardKernel<Scalar>& kernel, const ForwardSizes& sizes,
                   std::int64_t head_dim, bool own_state)
      : tiles(carver, kernel, {sizes.heads_per_task * sizes.rows_per_task, sizes.run_keys, head_dim}) {
    const std::int64_t rows = own_state ? sizes.heads_per_task * sizes.rows_per_task : 0;
    states.output = carver.take<T>(rows * kernel.tile.padded(head_dim));
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
  ForwardPass(const AttentionPlan& plan, const detail::ForwardTensors<Scalar>& tensors,
              const ForwardKernel<Scalar>& kernel, const detail::TokenRows& rows = {})
      : plan_(plan),
        tensors_(tensors),
        rows_(rows),
        kernel_(kernel),
        head_dim_(plan.shape.head_dim),
        padded_dim_(kernel.tile.padded(plan.shape.head_dim)) {}

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
    for (auto meetings = meetings_of(task, work); meetings.next();) {
      const std::int64_t zero_keys = meetings->segment.zero_keys;
      if (zero_keys > 0) absorb_zero_keys(query_set(task, *meetings), zero_keys, states);
    }
  }

  /// Attends a task's rows to the keys that are at hand: keys.places(...) walks those of a meeting, and
  /// keys.at(...) says where they lie.
  template <class Keys>
  void attend(const ForwardTask& task, const RowStates<T>& states, Workspace& work, const Keys& keys) const {
    for (auto meetings = meetings_of(task, work); meetings.next();) {
      const QuerySet set = query_set(task, *meetings);
      bool loaded = false;
      auto places = keys.places(task.item, task.kv_head, *meetings, 0, meetings->segment.end);
      for (detail::KeyPlace place; places.next(place);) {
        KeyPiece<Scalar> piece = piece_of<Scalar>(keys, place, task.item, task.kv_head);
        if (plan_.causal) piece.tokens.count = piece.tokens.count_below(set.tokens.last() + 1);
        if (piece.tokens.count == 0) continue;
        if (!loaded) work.tiles.load(set, {tensors_.q, rows_}, plan_.scale, states);
        loaded = true;
        work.tiles.attend(piece, plan_.causal);
      }
      if (loaded) work.tiles.store(states);
    }
  }

  /// out = O / l, lse = ln 2 * (m + log2 l); rows without keys and rows past the item's length: 0 and
  /// -infinity.
  void finish(const ForwardTask& task, const RowStates<T>& states) const {
    for (std::int64_t head = task.head_begin; head < task.head_end; ++head) {
      for (std::int64_t token = task.begin; token < task.end; ++token) {
        Scalar* out = tensors_.out.row(task.item, rows_(token), head);
        T lse = -std::numeric_limits<T>::infinity();
        const std::int64_t row = states.row(head, token);
        if (token < task.valid_end && states.sum[row] != T{0}) {
          kernel_.round_row(states.output + row * padded_dim_, T{1} / states.sum[row], head_dim_, out);
          lse = std::numbers::ln2_v<T> * (states.maximum[row] + std::log2(states.sum[row]));
        } else {
          std::fill_n(out, head_dim_, Scalar(0));
        }
        if (tensors_.lse.data() != nullptr) *tensors_.lse.row(task.item, head, rows_(token)) = lse;
      }
    }
  }

 private:
  detail::MeetingWalk meetings_of(const ForwardTask& task, Workspace& work) const {
    return {plan_, task.item, task.head_begin, task.head_end, task.begin, task.end, work.heads};
  }

  static QuerySet query_set(const ForwardTask& task, const detail::Meeting& meeting) {
    return {task.item, meeting.heads, meeting.head_count, meeting.segment.queries};
  }

  /// Merges the state m = 0, l = z, O = 0: z keys of score 0 and value 0 (torchscale's padding, never in
  /// memory).
  void absorb_zero_keys(const QuerySet& set, std::int64_t zero_keys, const RowStates<T>& states) const {
    const T maximum{0};
    const T sum = static_cast<T>(zero_keys);
    for (std::int64_t entry = 0; entry < set.entries(); ++entry) {
      const std::int64_t row = states.row(set.head(entry), set.token(entry));
      merge<T>({states.maximum + row, states.sum + row, states.output + row * padded_dim_, head_dim_},
               {&maximum, &sum, nullptr, head_dim_});
    }
  }

  const AttentionPlan& plan_;
  const detail::ForwardTensors<Scalar>& tensors_;
  detail::TokenRows rows_;  // of the tensors
  const ForwardKernel<Scalar>& kernel_;
  std::int64_t head_dim_;
  std::int64_t padded_dim_;
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
