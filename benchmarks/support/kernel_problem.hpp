// The tensors of one timed problem, its calls on the CPU, and checks of calls against the tests' float64
// oracle on a few query rows: outputs and log-sum-exps, and the gradients of a loss that depends on these
// rows alone, which reach every key that they see.
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
#include "measuring.hpp"
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

/// The attention object of a configuration: dilated, or by a list of blocks.
template <class Scalar>
class ConfiguredAttention {
 public:
  explicit ConfiguredAttention(const Configuration& of) : dilated_(of.config), sparse_(make_sparse(of)) {}

  /// What `call(attention)` returns.
  template <class Call>
  auto run(const Call& call) const {
    return sparse_ ? call(*sparse_) : call(dilated_);
  }

 private:
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

  ra::RingDilatedAttentionV2<Scalar> dilated_;
  std::optional<ra::BlockSparseRingDilatedAttention<Scalar>> sparse_;  ///< if there are blocks, in its place
};

/// Inputs of one problem, of batch size 1 and without grouped heads, and what a few of its query rows must
/// give.
template <class Scalar>
class CheckedInputs {
 public:
  CheckedInputs(const Configuration& configuration, std::int64_t head_dim)
      : q(numbers(configuration, head_dim, examples::Operand::query)),
        k(numbers(configuration, head_dim, examples::Operand::key)),
        v(numbers(configuration, head_dim, examples::Operand::value)),
        problem_(test::to_problem(configuration.config, q.shape(), k.shape())),
        inputs_(test::to_inputs<Scalar>(q, k, v)) {
    const std::int64_t n = configuration.tokens;
    expected_ = oracle::forward(problem_, inputs_, {0, n / 5, n / 3, n / 2, 3 * n / 4 + 1, n - 1});
    tolerance_ = test::tolerance_of<Scalar>(expected_.tolerance_factor());
  }

  static ra::Tensor<Scalar> numbers(const Configuration& of, std::int64_t head_dim,
                                    examples::Operand operand) {
    return random_numbers<Scalar>(of.tokens, of.heads, head_dim, operand);
  }

  /// The largest error of these rows in units of the tolerance. Throws std::runtime_error that says what is
  /// wrong.
  double check(const ra::AttentionResult<Scalar>& result) const {
    std::vector<double> out, lse;
    for (const std::int64_t t : expected_.rows) {
      const Scalar* row = result.out.view().row(0, t, 0);
      std::transform(row, row + row_size(), std::back_inserter(out), &test::to_double<Scalar>);
    }
    for (std::int64_t head = 0; head < problem_.heads; ++head) {
      for (const std::int64_t t : expected_.rows)
        lse.push_back(test::to_double(result.lse.view()(0, head, t, 0)));
    }
    const test::Comparison sums = test::compare_all("lse", lse, expected_.lse, tolerance_.lse);
    if (!sums.passed()) throw std::runtime_error(sums.message());
    return std::max(sums.worst(), worst_error("out", out, expected_.out, tolerance_.out));
  }

  /// `grad_out` in these rows, elsewhere 0.
  ra::Tensor<Scalar> sampled(const ra::Tensor<Scalar>& grad_out) const {
    ra::Tensor<Scalar> rows(q.shape());
    for (const std::int64_t t : expected_.rows) {
      std::copy_n(grad_out.view().row(0, t, 0), row_size(), rows.view().row(0, t, 0));
    }
    return rows;
  }

  /// As check(), of the gradients for sampled(grad_out).
  double check(const ra::Gradients<Scalar>& gradients, const ra::Tensor<Scalar>& sampled_grad_out) {
    if (!expected_gradients_) {
      expected_gradients_ = oracle::backward(problem_, inputs_, test::to_float64<Scalar>(sampled_grad_out),
                                             {}, {}, expected_.rows);
    }
    double worst = 0.0;
    for (const auto& [name, found, expected] : {std::tuple("dQ", &gradients.q, &expected_gradients_->q),
                                                {"dK", &gradients.k, &expected_gradients_->k},
                                                {"dV", &gradients.v, &expected_gradients_->v}}) {
      worst = std::max(worst,
                       worst_error(name, test::to_float64<Scalar>(*found), *expected, tolerance_.gradient));
    }
    return worst;
  }

  const ra::Tensor<Scalar> q, k, v;

 private:
  std::int64_t row_size() const { return problem_.heads * problem_.dim; }

  oracle::Problem problem_;
  oracle::Inputs inputs_;
  oracle::Result expected_;
  test::Tolerance tolerance_;
  std::optional<oracle::Gradients> expected_gradients_;
};

/// A problem on the CPU.
template <class Scalar>
class KernelProblem {
 public:
  KernelProblem(const Configuration& configuration, std::int64_t head_dim)
      : attention_(configuration),
        inputs_(configuration, head_dim),
        grad_out_(CheckedInputs<Scalar>::numbers(configuration, head_dim, examples::Operand{4})),
        sampled_grad_out_(inputs_.sampled(grad_out_)) {}

  /// The largest error in units of the tolerance; call() has what it needs from then on. Throws
  /// std::runtime_error that says what is wrong.
  double validate(Direction direction) {
    result_ = attention_.run(
        [&](const auto& attention) { return attention.forward_with_lse(inputs_.q, inputs_.k, inputs_.v); });
    std::fill_n(result_.out.data(), result_.out.size(), std::numeric_limits<Scalar>::quiet_NaN());
    call(Direction::forward);
    const double forward = inputs_.check(result_);
    if (direction == Direction::forward) return forward;
    gradients_ = backward(sampled_grad_out_);
    return std::max(forward, inputs_.check(gradients_, sampled_grad_out_));
  }

  void call(Direction direction) {
    if (direction == Direction::backward) {
      gradients_ = backward(grad_out_);
      return;
    }
    attention_.run(
        [&](const auto& attention) { attention.forward(inputs_.q, inputs_.k, inputs_.v, result_.out); });
  }

  /// Seconds of each of `calls` calls that follow one another.
  double seconds_of_calls(Direction direction, int calls) {
    return seconds_of([&] {
             for (int i = 0; i < calls; ++i) call(direction);
           }) /
           calls;
  }

 private:
  ra::Gradients<Scalar> backward(const ra::Tensor<Scalar>& grad_out) const {
    return attention_.run([&](const auto& attention) {
      return attention.backward(inputs_.q, inputs_.k, inputs_.v, result_, grad_out);
    });
  }

  ConfiguredAttention<Scalar> attention_;
  CheckedInputs<Scalar> inputs_;
  ra::Tensor<Scalar> grad_out_;
  ra::Tensor<Scalar> sampled_grad_out_;  ///< 0 but in the rows that are checked
  ra::AttentionResult<Scalar> result_;
  ra::Gradients<Scalar> gradients_;
};

}  // namespace benchmarks
