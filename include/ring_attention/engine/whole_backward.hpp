// Backward in one process over whole tensors.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/engine/backward.hpp>
#include <ring_attention/engine/backward_steps.hpp>
#include <ring_attention/engine/shards.hpp>
#include <ring_attention/engine/workspace.hpp>
#include <ring_attention/parallel.hpp>
#include <type_traits>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

template <class Scalar>
struct BackwardTensors {
  TensorView<const Scalar> q, k, v, out, grad_out;
  TensorView<const accumulator_t<Scalar>> lse;
  TensorView<const accumulator_t<Scalar>> grad_lse;  // may be without data
};

template <class Scalar>
struct GradientTensors {
  TensorView<Scalar> q, k, v;
};

template <class Scalar>
class WholeBackward {
  using T = accumulator_t<Scalar>;

 public:
  static std::size_t bytes_per_thread(const BackwardSizes& sizes, const CallShape& shape) {
    detail::Carver count;
    BackwardWorkspace<Scalar>(count, sizes, shape);
    return count.used();
  }

  WholeBackward(const AttentionPlan& plan, const BackwardTensors<Scalar>& tensors, const BackwardSizes& sizes,
                int threads)
      : plan_(plan),
        tensors_(tensors),
        queries_{tensors.q, tensors.grad_out, tensors.lse},
        threads_(threads),
        whole_{0, plan.shape.tokens, 0, 0},
        sizes_(sizes),
        workspace_bytes_(bytes_per_thread(sizes, plan.shape)) {
    workspace_.reserve(workspace_bytes_ * static_cast<std::size_t>(threads));
    compute_deltas();
  }

  void run(const GradientTensors<Scalar>& grads) {
    if constexpr (std::is_same_v<T, Scalar>) {
      accumulate(grads.q, whole_, grads.k, grads.v);
    } else {
      // Sums are kept in the accumulator type for one shard at a time: O(n / ring_size) of memory.
      const detail::SequenceRuns shards(plan_.shape.tokens, plan_.ring_size);
      const bool at_once = shards.count() == 1;
      for (std::int64_t shard = 0; shard < shards.count(); ++shard) {
        const detail::TokenRun run{shards.begin(shard), shards.end(shard), 0, 0};
        const auto sums = [&](std::int64_t heads) {
          return Tensor<T>(plan_.shape.batch, run.size(), heads, plan_.shape.head_dim);
        };
        Tensor<T> grad_q, grad_k = sums(plan_.shape.kv_heads), grad_v = sums(plan_.shape.kv_heads);
        if (at_once) grad_q = sums(plan_.shape.heads);
        accumulate(grad_q.view(), run, grad_k.view(), grad_v.view());
        round_gradients<Scalar, T>(grad_k.view(), run.begin, run, grads.k);
        round_gradients<Scalar, T>(grad_v.view(), run.begin, run, grads.v);
        if (!at_once) {
          grad_q = sums(plan_.shape.heads);
          accumulate_queries(grad_q.view(), run);
        }
        round_gradients<Scalar, T>(grad_q.view(), run.begin, run, grads.q);
      }
    }
  }

 private:
  RowNumbers<T> numbers(Tensor<T>& storage, std::size_t branches) const {
    const CallShape& shape = plan_.shape;
    storage = Tensor<T>(static_cast<std::int64_t>(branches), shape.batch, shape.heads, shape.tokens);
    return {storage.data(), shape.heads, shape.tokens,
            branches > 1 ? shape.batch * shape.heads * shape.tokens : std::int64_t{0}};
  }

  void compute_deltas() {
    if (!plan_.detached_mix) {
      delta_ = numbers(delta_storage_, 1);
      row_deltas(plan_, whole_, queries_, tensors_.out, tensors_.grad_lse, delta_, threads_);
      return;
    }
    const std::size_t branches = plan_.branch_count();
    delta_ = numbers(delta_storage_, branches);
    Tensor<T> probability_storage, weighted_storage;
    BackwardTargets<T> targets;
    targets.probability = numbers(probability_storage, branches);
    targets.weighted = numbers(weighted_storage, branches);
    seed_mix_statistics(plan_, whole_, queries_, targets.probability);
    for (std::size_t branch = 0; branch < branches; ++branch) {
      run_units(backward_units(plan_, branch, BackwardSide::queries, threads_), whole_, targets, {}, {});
    }
    branch_deltas<T>(plan_, whole_, targets.probability, targets.weighted, tensors_.grad_lse, delta_);
  }

  /// Gradients of the keys of one run from all queries and, where grad_q has data, of the queries.
  void accumulate(const TensorView<T>& grad_q, const detail::TokenRun& keys, const TensorView<T>& grad_k,
                  const TensorView<T>& grad_v) {
    BackwardTargets<T> targets;
    for (std::size_t branch = 0; branch < plan_.branch_count(); ++branch) {
      auto units = backward_units(plan_, branch, BackwardSide::both, threads_);
      const bool too_few = threads_ > 1 && static_cast<std::int64_t>(units.size()) < 2 * threads_;
      if (too_few) units = backward_units(plan_, branch, BackwardSide::keys, threads_);
      targets.grad_keys = true;
      targets.grad_q = too_few ? TensorView<T>() : grad_q;
      run_units(units, keys, targets, grad_k, grad_v);
      if (too_few && grad_q.data() != nullptr) {
        targets.grad_keys = false;
        targets.grad_q = grad_q;
        run_units(backward_units(plan_, branch, BackwardSide::queries, threads_), whole_, targets, {}, {});
      }
    }
  }

  /// Gradients of the queries of one run, which are rows 0 and on of grad_q.
  void accumulate_queries(const TensorView<T>& grad_q, const detail::TokenRun& run) {
    BackwardTargets<T> targets;
    targets.grad_q = grad_q;
    targets.grad_q_shift = -run.begin;
    for (std::size_t branch = 0; branch < plan_.branch_count(); ++branch) {
      auto units = backward_units(plan_, branch, BackwardSide::queries, threads_);
      for (BackwardUnit& unit : units) {
        unit.query_begin = std::max(unit.query_begin, run.begin);
        unit.query_end = std::min(unit.query_end, run.end);
      }
      run_units(units, whole_, targets, {}, {});
    }
  }

  void run_units(const std::vector<BackwardUnit>& units, const detail::TokenRun& keys,
                 const BackwardTargets<T>& targets, const TensorView<T>& grad_k,
                 const TensorView<T>& grad_v) {
    const BackwardPass<Scalar> pass(plan_, queries_, delta_, sizes_);
    std::byte* const memory = workspace_.reserve(0);
    detail::parallel_for(
        static_cast<std::int64_t>(units.size()), threads_, [&](std::int64_t index, int worker) {
          detail::Carver carver(memory + workspace_bytes_ * static_cast<std::size_t>(worker));
          BackwardWorkspace<Scalar> work(carver, sizes_, plan_.shape);
          pass.run(units[static_cast<std::size_t>(index)], whole_, targets, work,
                   [&](std::size_t, std::size_t, const detail::Segment& segment, const BackwardUnit& unit,
                       const auto& visit) {
                     const detail::TokenRun at_hand{std::max(keys.begin, unit.key_begin),
                                                    std::max(keys.begin, std::min(keys.end, unit.key_end)), 0,
                                                    0};
                     for_each_local_piece(
                         tensors_.k, tensors_.v, at_hand, segment, unit.item, unit.kv_head,
                         [&](const KeyPiece<Scalar>& piece) {
                           GradientPiece<Scalar> with_gradients{piece, {}, {}};
                           if (targets.grad_keys) {
                             const std::int64_t shift = piece.tokens.base - keys.begin;
                             with_gradients.grad_keys = {grad_k.row(unit.item, 0, unit.kv_head),
                                                         grad_k.strides()[1], piece.tokens.index, shift};
                             with_gradients.grad_values = {grad_v.row(unit.item, 0, unit.kv_head),
                                                           grad_v.strides()[1], piece.tokens.index, shift};
                           }
                           visit(with_gradients);
                         });
                   });
        });
  }

  const AttentionPlan& plan_;
  const BackwardTensors<Scalar>& tensors_;
  BackwardQueries<Scalar> queries_;
  int threads_;
  detail::TokenRun whole_;
  BackwardSizes sizes_;
  detail::Block workspace_;
  std::size_t workspace_bytes_;
  Tensor<T> delta_storage_;
  RowNumbers<T> delta_;
};

/// Writes the gradients of one call; `grads` holds zeros.
template <class Scalar>
void backward_whole(const AttentionPlan& plan, const BackwardTensors<Scalar>& tensors,
                    const GradientTensors<Scalar>& grads) {
  if (plan.shape.batch == 0 || plan.shape.tokens == 0) return;
  WholeBackward<Scalar>(plan, tensors, BackwardSizes{}, num_threads()).run(grads);
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
