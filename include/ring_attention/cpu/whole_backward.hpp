// Backward in one process over whole tensors.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <ring_attention/cpu/backward_arguments.hpp>
#include <ring_attention/cpu/backward_pass.hpp>
#include <ring_attention/cpu/backward_rows.hpp>
#include <ring_attention/cpu/backward_units.hpp>
#include <ring_attention/cpu/whole.hpp>
#include <ring_attention/cpu/workspace.hpp>
#include <ring_attention/cpu/workspace_limit.hpp>
#include <ring_attention/gradient_views.hpp>
#include <ring_attention/kernel/execution.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/plan/shards.hpp>
#include <span>
#include <type_traits>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Sizes that are fast: gradients of 16 bits are summed up for one shard at a time, O(n / ring_size) of
/// memory.
template <class Scalar>
BackwardSizes fast_backward_sizes(const AttentionPlan& plan) {
  BackwardSizes sizes;
  if (!std::is_same_v<accumulator_t<Scalar>, Scalar>) {
    sizes.sum_rows = detail::SequenceRuns(plan.shape.tokens, plan.ring_size).run_length;
  }
  return sizes;
}

/// One call, and the layout of what it works in; with a carver that only counts, the layout alone.
template <class Scalar>
class WholeBackward {
  using T = accumulator_t<Scalar>;
  static constexpr bool sums_apart = !std::is_same_v<T, Scalar>;

 public:
  WholeBackward(detail::Carver& carver, const AttentionPlan& plan,
                const detail::BackwardTensors<Scalar>& tensors, const BackwardKernel<Scalar>& kernel,
                const BackwardSizes& sizes, int threads)
      : plan_(plan),
        kernel_(kernel),
        tensors_(tensors),
        queries_{tensors, {}},
        threads_(threads),
        whole_{0, plan.shape.tokens},
        sizes_(sizes),
        sum_rows_(std::clamp<std::int64_t>(sizes.sum_rows, 1, plan.shape.tokens)) {
    const CallShape& shape = plan.shape;
    const std::int64_t numbers = shape.batch * shape.heads * shape.tokens;
    const std::int64_t of_keys = 2 * shape.kv_heads;
    const auto sum_numbers = [&](std::int64_t rows) {
      const std::int64_t heads =
          rows == shape.tokens ? shape.heads + of_keys : (std::max)(shape.heads, of_keys);
      return shape.batch * rows * heads * shape.head_dim;
    };
    // Sums that are written out chunk by chunk meet every branch in each chunk, whose deltas are kept; beside
    // the sums of all rows one branch follows the other, which takes less memory where branches are many.
    auto branches = std::int64_t{1};
    if (plan.detached_mix && !at_once()) {
      branches = static_cast<std::int64_t>(plan.branch_count());
      if (branches * numbers + sum_numbers(sum_rows_) >= numbers + sum_numbers(shape.tokens)) {
        branches = 1;
        sum_rows_ = shape.tokens;
      }
    }
    delta_ = {carver.take<T>(branches * numbers), shape.heads, shape.tokens, branches > 1 ? numbers : 0};
    if (plan.detached_mix) probability_ = {carver.take<T>(numbers), shape.heads, shape.tokens, 0};
    if (sums_apart) sums_ = carver.take<T>(sum_numbers(sum_rows_));
    const std::int64_t most_units = longest_list();
    units_ = carver.take<BackwardUnit>(most_units);
    turns_ = carver.take<std::atomic<int>>(turns_of_units(most_units, threads));
    workspaces_ = detail::ThreadParts(carver, threads, [&](detail::Carver& part) {
      BackwardWorkspace<Scalar>(part, kernel, sizes, shape);
    });
  }

  void run(const GradientViews<Scalar>& grads) {
    if (!plan_.detached_mix) {
      row_deltas(plan_, kernel_, whole_, queries_, delta_, threads_);
    }
    if constexpr (sums_apart) {
      if (!at_once()) {
        for (std::size_t branch = 0; branch < plan_.branch_count(); ++branch) compute_deltas(branch);
      }
      for (std::int64_t begin = 0; begin < plan_.shape.tokens; begin += sum_rows_) {
        run_chunk(grads, {begin, (std::min)(begin + sum_rows_, plan_.shape.tokens)});
      }
    } else {
      // Units add to the caller's tensors.
      clear_rows(grads.q, threads_);
      clear_rows(grads.k, threads_);
      clear_rows(grads.v, threads_);
      for (std::size_t branch = 0; branch < plan_.branch_count(); ++branch) {
        compute_deltas(branch);
        accumulate(branch, {grads.q, {}}, whole_, grads.k, grads.v);
      }
    }
  }

 private:
  /// Whether queries and keys share one pass, because the sums of all rows fit, or none are needed.
  bool at_once() const { return !sums_apart || sum_rows_ == plan_.shape.tokens; }

  std::int64_t longest_list() const {
    std::size_t most = 0;
    for (std::size_t branch = 0; branch < plan_.branch_count(); ++branch) {
      const auto count = [&](BackwardSide side) {
        most = (std::max)(most, list_units(plan_, branch, side, threads_, nullptr));
      };
      count(at_once() ? BackwardSide::both : BackwardSide::keys);
      if (!at_once() || plan_.detached_mix) count(BackwardSide::queries);
    }
    return static_cast<std::int64_t>(most);
  }

  /// Where the mixing weights are constants, each branch has a delta of its own.
  void compute_deltas(std::size_t branch) {
    if (!plan_.detached_mix) return;
    const std::int64_t numbers = plan_.shape.batch * plan_.shape.heads * plan_.shape.tokens;
    BackwardTargets<T> targets;
    targets.probability = probability_;
    targets.weighted = delta_;
    detail::fill_zeros(&probability_.at(branch, 0, 0, 0), numbers, threads_);
    detail::fill_zeros(&delta_.at(branch, 0, 0, 0), numbers, threads_);
    seed_mix_statistics(plan_, branch, whole_, queries_, targets.probability);
    run_units(units(branch, BackwardSide::queries), 1, whole_, targets, {}, {});
    branch_deltas(plan_, branch, whole_, queries_, probability_, delta_, delta_, threads_);
  }

  /// Sums the gradients of one run up in the accumulator type, then rounds them.
  void run_chunk(const GradientViews<Scalar>& grads, const detail::TokenRun& run) {
    const CallShape& shape = plan_.shape;
    T* next = sums_;
    const auto zeros = [&](std::int64_t heads) {
      const TensorView<T> view(next, {shape.batch, run.size(), heads, shape.head_dim});
      detail::fill_zeros(next, view.size(), threads_);
      next += view.size();
      return view;
    };
    const TensorView<T> grad_k = zeros(shape.kv_heads);
    const TensorView<T> grad_v = zeros(shape.kv_heads);
    const detail::TokenRows rows = detail::rows_from(run.begin);
    detail::MemberView<T> grad_q{at_once() ? zeros(shape.heads) : TensorView<T>(), rows};
    for (std::size_t branch = 0; branch < plan_.branch_count(); ++branch) {
      if (at_once()) compute_deltas(branch);
      accumulate(branch, grad_q, run, grad_k, grad_v);
    }
    round_gradients<Scalar, T>(kernel_, {grad_k, rows}, run, {grads.k, {}}, threads_);
    round_gradients<Scalar, T>(kernel_, {grad_v, rows}, run, {grads.v, {}}, threads_);
    if (!at_once()) {
      next = sums_;
      grad_q.view = zeros(shape.heads);
      for (std::size_t branch = 0; branch < plan_.branch_count(); ++branch) {
        accumulate_queries(branch, grad_q, run);
      }
    }
    round_gradients<Scalar, T>(kernel_, grad_q, run, {grads.q, {}}, threads_);
  }

  /// Gradients that one branch gives the keys of a run from all queries and, where grad_q has data, the
  /// queries.
  void accumulate(std::size_t branch, const detail::MemberView<T>& grad_q, const detail::TokenRun& keys,
                  const TensorView<T>& grad_k, const TensorView<T>& grad_v) {
    BackwardTargets<T> targets;
    targets.grad_keys = true;
    targets.grad_q = grad_q;
    // Without gradients of queries, units may share query rows.
    const bool both = static_cast<bool>(grad_q);
    auto listed = units(branch, both ? BackwardSide::both : BackwardSide::keys);
    listed = kept(listed, [&keys](const BackwardUnit& unit) {
      return unit.key_begin < keys.end && unit.key_end > keys.begin;
    });
    run_units(listed, both ? parts_of_units(plan_, listed, threads_) : 1, keys, targets, grad_k, grad_v);
  }

  /// Gradients that one branch gives the queries of a run, which are the rows of grad_q.
  void accumulate_queries(std::size_t branch, const detail::MemberView<T>& grad_q,
                          const detail::TokenRun& run) {
    BackwardTargets<T> targets;
    targets.grad_q = grad_q;
    auto listed = units(branch, BackwardSide::queries);
    for (BackwardUnit& unit : listed) {
      unit.query_begin = (std::max)(unit.query_begin, run.begin);
      unit.query_end = (std::min)(unit.query_end, run.end);
    }
    listed = kept(listed, [](const BackwardUnit& unit) { return unit.query_begin < unit.query_end; });
    run_units(listed, 1, whole_, targets, {}, {});
  }

  /// Lists the units of a branch in the call's memory, where the next list takes their place.
  std::span<BackwardUnit> units(std::size_t branch, BackwardSide side) const {
    return {units_, list_units(plan_, branch, side, threads_, units_)};
  }

  template <class Keep>
  static std::span<BackwardUnit> kept(std::span<BackwardUnit> listed, const Keep& keep) {
    const auto end = std::remove_if(listed.begin(), listed.end(), std::not_fn(keep));
    return listed.first(static_cast<std::size_t>(end - listed.begin()));
  }

  void run_units(std::span<const BackwardUnit> listed, std::int64_t parts, const detail::TokenRun& keys,
                 const BackwardTargets<T>& targets, const TensorView<T>& grad_k,
                 const TensorView<T>& grad_v) {
    const BackwardPass<Scalar> pass(plan_, kernel_, queries_, delta_, sizes_);
    const detail::MemberTokens tokens{{keys, {}}, {}};
    const OwnKeys<const Scalar> of_run(tensors_.k, tensors_.v, tokens, {});
    const KeyTensors<T> gradients{grad_k, grad_v, detail::rows_from(keys.begin)};
    run_in_turns(listed, parts, turns_, threads_, [&](const BackwardUnit& piece, int worker) {
      detail::Carver carver = workspaces_.of(worker);
      BackwardWorkspace<Scalar> work(carver, kernel_, sizes_, plan_.shape);
      pass.run(piece, whole_, targets, work, of_run, gradients);
    });
  }

  const AttentionPlan& plan_;
  const BackwardKernel<Scalar>& kernel_;
  const detail::BackwardTensors<Scalar>& tensors_;
  BackwardQueries<Scalar> queries_;
  int threads_;
  detail::TokenRun whole_;
  BackwardSizes sizes_;
  std::int64_t sum_rows_;
  RowNumbers<T> delta_;
  RowNumbers<T> probability_;  // of one branch, where its delta is a quotient of sums
  T* sums_ = nullptr;          // of keys and values, then of queries
  BackwardUnit* units_;        // of one pass of one branch
  std::atomic<int>* turns_;
  detail::ThreadParts workspaces_;
};

template <class Scalar>
std::size_t backward_whole(const AttentionPlan& plan, const detail::BackwardTensors<Scalar>& tensors,
                           const GradientViews<Scalar>& grads, const BackwardExecution<Scalar>& execution,
                           std::size_t limit, detail::Block& memory) {
  if (plan.shape.batch == 0 || plan.shape.tokens == 0) return 0;
  const auto lay_out = [&](detail::Carver& carver, const BackwardSizes& sizes, int threads) {
    return WholeBackward<Scalar>(carver, plan, tensors, *execution.kernel, sizes, threads);
  };
  const auto fitted = fit_into(memory, fast_backward_sizes<Scalar>(plan), execution.threads, limit, lay_out);
  detail::Carver carver(memory.data());
  lay_out(carver, fitted.sizes, fitted.threads).run(grads);
  return fitted.bytes;
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
