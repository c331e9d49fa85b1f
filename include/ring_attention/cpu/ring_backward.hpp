// A ring member's backward pass.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <ring_attention/cpu/backward_pass.hpp>
#include <ring_attention/cpu/backward_rows.hpp>
#include <ring_attention/cpu/backward_units.hpp>
#include <ring_attention/cpu/key_pieces.hpp>
#include <ring_attention/cpu/ring.hpp>
#include <ring_attention/cpu/workspace.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/plan/shards.hpp>
#include <ring_attention/tensor.hpp>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

template <class Scalar>
struct RingBackward<Scalar>::Member {
  using Workspace = BackwardWorkspace<Scalar>;

  Member(const RingPlace& place, const detail::BackwardTensors<Scalar>& all,
         const BackwardExecution<Scalar>& execution, const Progress& call_progress)
      : plan(*place.plan),
        tensors(all),
        queries{all, place.rows()},
        kernel(*execution.kernel),
        threads(execution.threads),
        progress(call_progress),
        mine(place.tokens(place.rank)),
        branches(plan.detached_mix ? plan.branch_count() : 1) {
    const auto lay_out = [this](detail::Carver carver) {
      parts = detail::ThreadParts(carver, threads, [this](detail::Carver& part) { workspace(part); });
      return carver.used();
    };
    lay_out(detail::Carver(memory.reserve(lay_out(detail::Carver()))));
    delta = numbers(delta_storage);
    if (plan.detached_mix) {
      statistics.probability = numbers(probability_storage);
      statistics.weighted = numbers(weighted_storage);
    }
  }

  Workspace workspace(detail::Carver& part) const { return Workspace(part, kernel, sizes, plan.shape); }

  /// A number for every row and head of every branch that has its own delta.
  RowNumbers<T> numbers(Tensor<T>& storage) const {
    const CallShape& shape = plan.shape;
    storage = Tensor<T>(static_cast<std::int64_t>(branches), shape.batch, shape.heads, mine.size());
    return {storage.data(), shape.heads, mine.size(),
            branches > 1 ? shape.batch * shape.heads * mine.size() : std::int64_t{0}, mine.rows};
  }

  OwnKeys<const Scalar> own_keys() const { return {tensors.k, tensors.v, mine, queries.rows}; }
  KeyTensors<T> own_gradients() { return {grad_k, grad_v, mine.rows}; }

  std::vector<BackwardUnit> units_of(std::size_t branch, BackwardSide side) const {
    std::vector<BackwardUnit> units(list_units(plan, branch, side, threads, nullptr));
    list_units(plan, branch, side, threads, units.data());
    return units;
  }

  template <class Keys>
  void sum(const Keys& keys) {
    for (std::size_t branch = 0; branch < branches; ++branch) {
      run_units(units_of(branch, BackwardSide::queries), statistics, keys, KeyTensors<T>());
    }
  }

  template <class Keys, class Gradients>
  void accumulate(const Keys& keys, const Gradients& gradients) {
    for (std::size_t branch = 0; branch < plan.branch_count(); ++branch) {
      BackwardTargets<T> targets;
      auto units = units_of(branch, BackwardSide::both);
      const bool too_few = threads > 1 && static_cast<std::int64_t>(units.size()) < 2 * threads;
      if (too_few) units = units_of(branch, BackwardSide::keys);
      targets.grad_keys = true;
      if (!too_few) targets.grad_q = {grad_q, mine.rows};
      run_units(units, targets, keys, gradients);
      if (!too_few) continue;
      targets.grad_keys = false;
      targets.grad_q = {grad_q, mine.rows};
      run_units(units_of(branch, BackwardSide::queries), targets, keys, gradients);
    }
  }

  template <class Keys, class Gradients>
  void run_units(const std::vector<BackwardUnit>& units, const BackwardTargets<T>& targets, const Keys& keys,
                 const Gradients& gradients) {
    const BackwardPass<Scalar> pass(plan, kernel, queries, delta, sizes);
    detail::parallel_for(
        static_cast<std::int64_t>(units.size()), threads, [&](std::int64_t index, int worker) {
          detail::Carver part = parts.of(worker);
          Workspace work = workspace(part);
          for (const detail::TokenRun& run : mine.runs) {
            pass.run(units[static_cast<std::size_t>(index)], run, targets, work, keys, gradients);
          }
          if (worker == 0) progress();
        });
  }

  const AttentionPlan& plan;
  const detail::BackwardTensors<Scalar>& tensors;
  BackwardQueries<Scalar> queries;
  const BackwardKernel<Scalar>& kernel;
  int threads;
  Progress progress;
  detail::MemberTokens mine;
  std::size_t branches;  // that have a delta of their own
  BackwardSizes sizes;
  detail::Block memory;
  detail::ThreadParts parts;
  Tensor<T> delta_storage, probability_storage, weighted_storage, grad_q, grad_k, grad_v;
  RowNumbers<T> delta;
  BackwardTargets<T> statistics;
};

template <class Scalar>
RingBackward<Scalar>::RingBackward(const RingPlace& place, const detail::BackwardTensors<Scalar>& tensors,
                                   const BackwardExecution<Scalar>& execution, const Progress& progress)
    : member_(std::make_unique<Member>(place, tensors, execution, progress)) {}

template <class Scalar>
RingBackward<Scalar>::~RingBackward() = default;

template <class Scalar>
void RingBackward<Scalar>::sum_own_keys() {
  const Member& member = *member_;
  for (std::size_t branch = 0; branch < member.branches; ++branch) {
    for (const detail::TokenRun& run : member.mine.runs) {
      seed_mix_statistics(member.plan, branch, run, member.queries, member.statistics.probability);
    }
  }
  member_->sum(member.own_keys());
}

template <class Scalar>
void RingBackward<Scalar>::sum(const KeyMessage<const Scalar>& message) {
  if (message.size() > 0) member_->sum(message);
}

template <class Scalar>
void RingBackward<Scalar>::begin_gradients() {
  Member& member = *member_;
  for (const detail::TokenRun& run : member.mine.runs) {
    if (!member.plan.detached_mix) {
      row_deltas(member.plan, member.kernel, run, member.queries, member.delta, member.threads);
      continue;
    }
    for (std::size_t branch = 0; branch < member.branches; ++branch) {
      branch_deltas(member.plan, branch, run, member.queries, member.statistics.probability,
                    member.statistics.weighted, member.delta, member.threads);
    }
  }
  member.probability_storage = member.weighted_storage = Tensor<T>();
  const CallShape& shape = member.plan.shape;
  member.grad_q = Tensor<T>(shape.batch, member.mine.size(), shape.heads, shape.head_dim);
  member.grad_k = Tensor<T>(shape.batch, member.mine.size(), shape.kv_heads, shape.head_dim);
  member.grad_v = Tensor<T>(shape.batch, member.mine.size(), shape.kv_heads, shape.head_dim);
}

template <class Scalar>
void RingBackward<Scalar>::accumulate_own_keys() {
  member_->accumulate(member_->own_keys(), member_->own_gradients());
}

template <class Scalar>
void RingBackward<Scalar>::accumulate(const KeyMessage<const Scalar>& message, const KeyMessage<T>& home) {
  std::fill_n(home.data(), home.size(), T{0});
  member_->accumulate(message, home);
}

template <class Scalar>
void RingBackward<Scalar>::add_gradients(const KeyMessage<const T>& gradients) {
  const Member& member = *member_;
  const KeyTensors<T> own = member_->own_gradients();
  for (const detail::TransferPiece& piece : gradients.transfer().pieces()) {
    const KeyRows<const T> from = gradients.of_piece(piece);
    for (std::int64_t i = 0; i < piece.tokens.count; ++i) {
      const KeyRows<T> to = own.at({piece.tokens.sub(i, i + 1)}, piece.item, piece.kv_head);
      member.kernel.add_row(from.keys[i], T{1}, member.plan.shape.head_dim, to.keys[0]);
      member.kernel.add_row(from.values[i], T{1}, member.plan.shape.head_dim, to.values[0]);
    }
  }
}

template <class Scalar>
void RingBackward<Scalar>::write(const GradientViews<Scalar>& grads) {
  Member& member = *member_;
  const auto round = [&member](Tensor<T>& sums, const TensorView<Scalar>& to) {
    for (const detail::TokenRun& run : member.mine.runs) {
      round_gradients<Scalar, T>(member.kernel, {sums, member.mine.rows}, run, {to, member.queries.rows},
                                 member.threads);
    }
  };
  round(member.grad_q, grads.q);
  round(member.grad_k, grads.k);
  round(member.grad_v, grads.v);
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
