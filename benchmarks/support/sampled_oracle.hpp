// Checks of timed calls against the tests' float64 oracle, on a few query rows: their outputs and
// log-sum-exps, and the gradients of a loss that depends on these rows alone, which reach every key that they
// see.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <ring_attention/ring_attention.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../tests/support/compare.hpp"
#include "../../tests/support/oracle.hpp"
#include "../../tests/support/oracle_adapter.hpp"

namespace benchmarks {

namespace ra = ring_attention;

/// One tensor against its reference. Attention averages, so that results may be small: below 1 the largest
/// reference takes the place of 1 in the tolerance, or nothing would be checked. `size` as in the tolerances.
class TensorCheck {
 public:
  TensorCheck(const std::string& name, double tolerance, const std::vector<double>& reference, double size)
      : unit_(unit_of(reference)),
        size_(size / unit_),
        comparison_(name + (unit_ < 1.0 ? " divided by its largest reference" : ""), tolerance) {}

  template <class T>
  void add(const T& actual, double reference, const test::Comparison::Position& position) {
    comparison_.add(test::to_double(actual) / unit_, reference / unit_, position, size_);
  }

  /// The largest error in units of the tolerance. Throws std::runtime_error where it is more than 1, or NaN.
  double worst() const {
    if (!comparison_.passed()) throw std::runtime_error(comparison_.message());
    return comparison_.worst();
  }

 private:
  static double unit_of(const std::vector<double>& reference) {
    double largest = 0.0;
    for (const double value : reference) largest = std::max(largest, std::abs(value));
    return largest > 0.0 ? std::min(largest, 1.0) : 1.0;
  }

  double unit_, size_;
  test::Comparison comparison_;
};

/// References for one problem of batch size 1 without grouped heads.
template <class Scalar>
class SampledOracle {
 public:
  using View = ra::TensorView<const Scalar>;

  SampledOracle(const ra::AttentionConfig& config, const View& q, const View& k, const View& v)
      : problem_(test::to_problem(config, q.shape(), k.shape())), inputs_(test::to_inputs(q, k, v)) {
    const std::int64_t n = q.shape()[1];
    std::vector<std::int64_t> rows{0, n / 5, n / 3, n / 2, 3 * n / 4 + 1, n - 1};
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
    expected_ = oracle::forward(problem_, inputs_, std::move(rows));
    tolerance_ = test::tolerance_of<Scalar>(expected_.tolerance_factor());
  }

  /// Query positions that are checked.
  const std::vector<std::int64_t>& rows() const { return expected_.rows; }

  /// The largest error in units of the tolerance. Throws std::runtime_error that says what is wrong.
  double check_forward(const View& out, const ra::TensorView<const ra::accumulator_t<Scalar>>& lse) const {
    TensorCheck outs("out", tolerance_.out, expected_.out, 0.0);  // values of the benchmarks are small
    test::Comparison sums("lse", tolerance_.lse);
    std::size_t out_at = 0;
    for (std::size_t i = 0; i < rows().size(); ++i) {
      for (std::int64_t head = 0; head < problem_.heads; ++head) {
        const std::int64_t t = rows()[i];
        for (std::int64_t c = 0; c < problem_.dim; ++c) {
          outs.add(out(0, t, head, c), expected_.out[out_at++], {0, t, head, c});
        }
        sums.add(lse(0, head, t, 0), expected_.lse[static_cast<std::size_t>(head) * rows().size() + i],
                 {0, head, t, 0});
      }
    }
    if (!sums.passed()) throw std::runtime_error(sums.message());
    return std::max(outs.worst(), sums.worst());
  }

  /// The same for gradients of sum(grad_out * out), where grad_out is 0 but in the rows that are checked.
  double check_backward(const ra::Gradients<Scalar>& actual, const View& grad_out) {
    if (gradients_.empty()) compute_gradients(grad_out);
    const ra::Tensor<Scalar>* tensors[]{&actual.q, &actual.k, &actual.v};
    const char* const names[]{"dQ", "dK", "dV"};
    double worst = 0.0;
    for (std::size_t i = 0; i < gradients_.size(); ++i) {
      TensorCheck check(names[i], tolerance_.gradient, gradients_[i],
                        test::gradient_size<Scalar>(gradients_[i]));
      const std::int64_t row_size = problem_.heads * problem_.dim;
      for (std::int64_t j = 0; j < tensors[i]->size(); ++j) {
        const std::int64_t within = j % row_size;
        check.add(tensors[i]->data()[j], gradients_[i][static_cast<std::size_t>(j)],
                  {0, j / row_size, within / problem_.dim, within % problem_.dim});
      }
      worst = std::max(worst, check.worst());
    }
    return worst;
  }

 private:
  /// With P the probability of a key over all branches: dS = P (grad_out . v - grad_out . out),
  /// dQ += scale dS K, dK += scale dS Q, dV += P grad_out.
  void compute_gradients(const View& grad_out) {
    gradients_.assign(3, std::vector<double>(problem_.query_size()));
    const auto dim = static_cast<std::size_t>(problem_.dim);
    const auto dot = [dim](const double* x, const double* y) {
      return std::inner_product(x, x + dim, y, 0.0);
    };
    for (const std::int64_t t : rows()) {
      for (std::int64_t head = 0; head < problem_.heads; ++head) {
        const oracle::Row row = oracle::attend_row(problem_, inputs_, 0, head, t);
        const std::size_t query = problem_.query_row(0, t, head);
        std::vector<double> grad(dim);
        std::transform(grad_out.row(0, t, head), grad_out.row(0, t, head) + dim, grad.begin(),
                       &test::to_double<Scalar>);
        const double grad_dot_out = dot(grad.data(), row.out.data());
        for (std::size_t i = 0; i < row.branches.size(); ++i) {
          const oracle::BranchRow& branch = row.branches[i];
          for (std::size_t j = 0; j < branch.keys.tokens.size(); ++j) {
            const std::size_t key = problem_.key_row(0, branch.keys.tokens[j], head);
            const double probability = row.weights[i] * branch.probabilities[j];
            const double score_grad =
                problem_.scale * probability * (dot(grad.data(), inputs_.v.data() + key) - grad_dot_out);
            for (std::size_t c = 0; c < dim; ++c) {
              gradients_[0][query + c] += score_grad * inputs_.k[key + c];
              gradients_[1][key + c] += score_grad * inputs_.q[query + c];
              gradients_[2][key + c] += probability * grad[c];
            }
          }
        }
      }
    }
  }

  oracle::Problem problem_;
  oracle::Inputs inputs_;
  oracle::Result expected_;
  test::Tolerance tolerance_;
  std::vector<std::vector<double>> gradients_;  ///< of q, k and v
};

}  // namespace benchmarks
