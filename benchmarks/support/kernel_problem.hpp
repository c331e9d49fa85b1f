// The tensors of one timed problem, its calls, and their checks against the tests' float64 oracle on a few
// query rows: outputs and log-sum-exps, and the gradients of a loss that depends on these rows alone, which
// reach every key that they see.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <optional>
#include <ring_attention/ring_attention.hpp>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../../tests/support/compare.hpp"
#include "../../tests/support/oracle.hpp"
#include "../../tests/support/oracle_adapter.hpp"
#include "../../tests/support/oracle_backward.hpp"
#include "problems.hpp"

namespace benchmarks {

/// The largest error in units of the tolerance. Attention averages, so that results may be small: below 1 the
/// largest reference takes the place of 1 in the tolerance, or nothing would be checked. Throws
/// std::runtime_error if the error is more than 1, or NaN.
inline double worst_error(const std::string& name, std::vector<double> actual, std::vector<double> reference,
                          double tolerance) {
  double unit = 0.0;
  for (const double value : reference) unit = std::max(unit, std::abs(value));
  unit = unit > 0.0 ? std::min(unit, 1.0) : 1.0;
  for (double& value : actual) value /= unit;
  for (double& value : reference) value /= unit;
  const test::Comparison compared = test::compare_all(name, actual, reference, tolerance);
  if (!compared.passed()) throw std::runtime_error(compared.message());
  return compared.worst();
}

/// Batch size 1, without grouped heads.
template <class Scalar>
class KernelProblem {
 public:
  KernelProblem(const Configuration& configuration, std::int64_t head_dim)
      : dilated_(configuration.config),
        sparse_(make_sparse(configuration)),
        q_(numbers(configuration, head_dim, examples::Operand::query)),
        k_(numbers(configuration, head_dim, examples::Operand::key)),
        v_(numbers(configuration, head_dim, examples::Operand::value)),
        grad_out_(numbers(configuration, head_dim, examples::Operand{4})),
        sampled_grad_out_(q_.shape()),
        result_(run([&](const auto& attention) { return attention.forward_with_lse(q_, k_, v_); })),
        problem_(test::to_problem(configuration.config, q_.shape(), k_.shape())),
        inputs_(test::to_inputs<Scalar>(q_, k_, v_)) {
    const std::int64_t n = configuration.tokens;
    expected_ = oracle::forward(problem_, inputs_, {0, n / 5, n / 3, n / 2, 3 * n / 4 + 1, n - 1});
    tolerance_ = test::tolerance_of<Scalar>(expected_.tolerance_factor());
    for (const std::int64_t t : expected_.rows) {
      std::copy_n(grad_out_.view().row(0, t, 0), row_size(), sampled_grad_out_.view().row(0, t, 0));
    }
    expected_gradients_ = oracle::backward(problem_, inputs_, test::to_float64<Scalar>(sampled_grad_out_), {},
                                           {}, expected_.rows);
  }

  void call(Direction direction) {
    run([&](const auto& attention) {
      if (direction == Direction::forward) {
        attention.forward(q_, k_, v_, result_.out);
      } else {
        gradients_ = attention.backward(q_, k_, v_, result_, grad_out_);
      }
    });
  }

  /// The largest error in units of the tolerance; call() has what it needs from then on. Throws
  /// std::runtime_error that says what is wrong.
  double validate(Direction direction) {
    result_ = run([&](const auto& attention) { return attention.forward_with_lse(q_, k_, v_); });
    std::fill_n(result_.out.data(), result_.out.size(), std::numeric_limits<Scalar>::quiet_NaN());
    call(Direction::forward);
    std::vector<double> out, lse;
    for (const std::int64_t t : expected_.rows) {
      const Scalar* row = result_.out.view().row(0, t, 0);
      std::transform(row, row + row_size(), std::back_inserter(out), &test::to_double<Scalar>);
    }
    for (std::int64_t head = 0; head < problem_.heads; ++head) {
      for (const std::int64_t t : expected_.rows)
        lse.push_back(test::to_double(result_.lse.view()(0, head, t, 0)));
    }
    const test::Comparison sums = test::compare_all("lse", lse, expected_.lse, tolerance_.lse);
    if (!sums.passed()) throw std::runtime_error(sums.message());
    const double forward = std::max(sums.worst(), worst_error("out", out, expected_.out, tolerance_.out));
    if (direction == Direction::forward) return forward;

    gradients_ = run(
        [&](const auto& attention) { return attention.backward(q_, k_, v_, result_, sampled_grad_out_); });
    double worst = forward;
    for (const auto& [name, found, expected] : {std::tuple("dQ", &gradients_.q, &expected_gradients_.q),
                                                {"dK", &gradients_.k, &expected_gradients_.k},
                                                {"dV", &gradients_.v, &expected_gradients_.v}}) {
      worst = std::max(worst,
                       worst_error(name, test::to_float64<Scalar>(*found), *expected, tolerance_.gradient));
    }
    return worst;
  }

 private:
  static ra::Tensor<Scalar> numbers(const Configuration& of, std::int64_t head_dim,
                                    examples::Operand operand) {
    return random_numbers<Scalar>(of.tokens, of.heads, head_dim, operand);
  }
  /// Every block sees the blocks of its segment, which makes it dilated attention of rate 1.
  static std::optional<ra::BlockSparseRingDilatedAttention<Scalar>> make_sparse(const Configuration& of) {
    if (of.block_size == 0) return std::nullopt;
    ra::BlockSparseConfig sparse{.pattern = ra::BlockPattern::custom, .block_size = of.block_size};
    const std::int64_t count = of.config.segment_lengths.front() / of.block_size;
    for (std::int64_t query = 0; query < of.tokens / of.block_size; ++query) {
      for (std::int64_t i = 0; i < count; ++i) sparse.blocks.push_back({query, query / count * count + i});
    }
    return std::optional<ra::BlockSparseRingDilatedAttention<Scalar>>(std::in_place, of.config, sparse);
  }

  template <class Call>
  auto run(const Call& call) const {
    return sparse_ ? call(*sparse_) : call(dilated_);
  }

  std::int64_t row_size() const { return problem_.heads * problem_.dim; }

  ra::RingDilatedAttentionV2<Scalar> dilated_;
  std::optional<ra::BlockSparseRingDilatedAttention<Scalar>> sparse_;  ///< if there are blocks, in its place
  ra::Tensor<Scalar> q_, k_, v_, grad_out_;
  ra::Tensor<Scalar> sampled_grad_out_;  ///< 0 but in the rows that are checked
  ra::AttentionResult<Scalar> result_;
  ra::Gradients<Scalar> gradients_;
  oracle::Problem problem_;
  oracle::Inputs inputs_;
  oracle::Result expected_;
  test::Tolerance tolerance_;
  oracle::Gradients expected_gradients_;
};

}  // namespace benchmarks
