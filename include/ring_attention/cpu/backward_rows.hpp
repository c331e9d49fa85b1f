// The steps of backward that go row by row: deltas, statistics of detached mixing, zeros and rounding.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ring_attention/cpu/gradient_tiles.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/plan/meetings.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/plan/shards.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Calls body(item, head, begin, end) for blocks of a run's rows of every head.
template <class Body>
void for_each_row_block(std::int64_t batch, std::int64_t heads, const detail::TokenRun& run, int threads,
                        const Body& body) {
  constexpr std::int64_t rows = 512;
  const std::int64_t blocks = detail::ceil_div(run.size(), rows);
  detail::parallel_for(batch * heads * blocks, threads, [&](std::int64_t index, int) {
    const std::int64_t head = index / blocks;
    const std::int64_t begin = run.begin + index % blocks * rows;
    body(head / heads, head % heads, begin, (std::min)(begin + rows, run.end));
  });
}

/// delta = sum_d dO O - d(lse) for every row of a run with keys; rows without keys or past the item's length:
/// 0.
template <class Scalar>
void row_deltas(const AttentionPlan& plan, const BackwardKernel<Scalar>& kernel, const detail::TokenRun& run,
                const BackwardQueries<Scalar>& queries, const RowNumbers<accumulator_t<Scalar>>& delta,
                int threads) {
  using T = accumulator_t<Scalar>;
  const detail::BackwardTensors<Scalar>& tensors = queries.tensors;
  const auto compute = [&](std::int64_t item, std::int64_t head, std::int64_t begin, std::int64_t end) {
    const std::int64_t valid = (std::min)(end, plan.sequence_of(item).length);
    for (std::int64_t token = begin; token < end; ++token) {
      const std::int64_t row = queries.rows(token);
      T sum{0};
      if (token < valid && *tensors.lse.row(item, head, row) != -std::numeric_limits<T>::infinity()) {
        // Summed as dO.v is, from which it is taken: rows with one dominant key cancel best so.
        sum = kernel.dot(tensors.grad_out.row(item, row, head), tensors.out.row(item, row, head),
                         plan.shape.head_dim);
        if (tensors.grad_lse.data() != nullptr) sum -= *tensors.grad_lse.row(item, head, row);
      }
      delta.at(0, item, head, token) = sum;
    }
  };
  for_each_row_block(plan.shape.batch, plan.shape.heads, run, threads, compute);
}

/// Sets a branch's sums of probabilities, which are 0, to what its zero keys contribute, z * exp(0 - lse).
template <class Scalar>
void seed_mix_statistics(const AttentionPlan& plan, std::size_t branch, const detail::TokenRun& run,
                         const BackwardQueries<Scalar>& queries,
                         const RowNumbers<accumulator_t<Scalar>>& probability) {
  using T = accumulator_t<Scalar>;
  if (!plan.zero_keys) return;
  for (std::int64_t item = 0; item < plan.shape.batch; ++item) {
    for (std::int64_t head = 0; head < plan.shape.heads; ++head) {
      std::int64_t only = 0;
      detail::MeetingWalk meetings(plan, item, head, head + 1, run.begin, run.end, &only);
      while (meetings.next()) {
        const detail::Segment& segment = meetings->segment;
        if (meetings->branch != branch || segment.zero_keys == 0) continue;
        for (std::int64_t q = 0; q < segment.queries.count; ++q) {
          const std::int64_t token = segment.queries[q];
          probability.at(branch, item, head, token) =
              static_cast<T>(segment.zero_keys) *
              std::exp(-*queries.tensors.lse.row(item, head, queries.rows(token)));
        }
      }
    }
  }
}

/// Turns a branch's statistics into its delta: sum(P dP) / sum(P) is sum_d dO O of the branch's own output.
/// The gradient of the log-sum-exp is taken off as in row_deltas. `delta` may be `weighted`.
template <class Scalar, class T>
void branch_deltas(const AttentionPlan& plan, std::size_t branch, const detail::TokenRun& run,
                   const BackwardQueries<Scalar>& queries, const RowNumbers<T>& probability,
                   const RowNumbers<T>& weighted, const RowNumbers<T>& delta, int threads) {
  const TensorView<const T>& grad_lse = queries.tensors.grad_lse;
  const auto divide = [&](std::int64_t item, std::int64_t head, std::int64_t begin, std::int64_t end) {
    const std::int64_t valid = (std::min)(end, plan.sequence_of(item).length);
    for (std::int64_t token = begin; token < end; ++token) {
      const T sum = probability.at(branch, item, head, token);
      T value = sum != T{0} ? weighted.at(branch, item, head, token) / sum : T{0};
      if (token < valid && grad_lse.data() != nullptr) {
        value -= *grad_lse.row(item, head, queries.rows(token));
      }
      delta.at(branch, item, head, token) = value;
    }
  };
  for_each_row_block(plan.shape.batch, plan.shape.heads, run, threads, divide);
}

/// Zeros in every row of a tensor, on all threads.
template <class Scalar>
void clear_rows(const TensorView<Scalar>& view, int threads) {
  const auto [batch, tokens, heads, head_dim] = view.shape();
  const auto clear = [&view, count = head_dim](std::int64_t item, std::int64_t head, std::int64_t begin,
                                               std::int64_t end) {
    for (std::int64_t token = begin; token < end; ++token) {
      std::fill_n(view.row(item, token, head), count, Scalar(0));
    }
  };
  for_each_row_block(batch, heads, {0, tokens}, threads, clear);
}

/// Rounds the accumulated gradients of a run to the scalar type.
template <class Scalar, class T>
void round_gradients(const BackwardKernel<Scalar>& kernel, const detail::MemberView<T>& from,
                     const detail::TokenRun& run, const detail::MemberView<Scalar>& to, int threads) {
  const auto [batch, rows, heads, head_dim] = to.view.shape();
  const auto round = [&, count = head_dim](std::int64_t item, std::int64_t head, std::int64_t begin,
                                           std::int64_t end) {
    for (std::int64_t token = begin; token < end; ++token) {
      kernel.round_row(from.row(item, token, head), T{1}, count, to.row(item, token, head));
    }
  };
  for_each_row_block(batch, heads, run, threads, round);
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
