// Backward calls checked against the oracle's gradients.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <ring_attention/gradient_views.hpp>
#include <ring_attention/options.hpp>
#include <ring_attention/tensor.hpp>
#include <string>

#include "support/check_forward.hpp"
#include "support/compare.hpp"
#include "support/oracle_adapter.hpp"
#include "support/oracle_backward.hpp"
#include "support/random.hpp"
#include "support/random_case.hpp"

namespace test {

/// Rows past an item's length hold NaN: they must not be read.
template <class T>
ra::Tensor<T> random_tensor(const ra::Shape& shape, const std::vector<std::int64_t>& lengths,
                            Random& random) {
  ra::Tensor<T> tensor(shape);
  for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.data()[i] = std::numeric_limits<T>::quiet_NaN();
  fill_valid_rows(tensor.view(), lengths, random);
  return tensor;
}

/// The same without the NaN, which the oracle would not read either but copies.
inline std::vector<double> without_nan(std::vector<double> values) {
  for (double& value : values) {
    if (value != value) value = 0;
  }
  return values;
}

template <class Scalar>
std::string compare_gradients(const ra::Gradients<Scalar>& grads, const oracle::Gradients& expected,
                              double tolerance) {
  std::string text;
  const auto compare = [&](const char* name, const ra::Tensor<Scalar>& actual,
                           const std::vector<double>& reference) {
    const Comparison comparison =
        compare_all(name, to_float64(actual.view()), reference, tolerance, gradient_size<Scalar>(reference));
    if (!comparison.passed()) text += comparison.message() + '\n';
  };
  compare("grad_q", grads.q, expected.q);
  compare("grad_k", grads.k, expected.k);
  compare("grad_v", grads.v, expected.v);
  return text;
}

/// What random tensors are multiplied by.
struct InputFactors {
  double q = 1, k = 1, v = 1, grad_out = 1;
};

template <class Scalar>
ra::Tensor<Scalar> multiplied(ra::Tensor<Scalar> tensor, double factor) {
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    tensor.data()[i] = static_cast<Scalar>(static_cast<double>(tensor.data()[i]) * factor);
  }
  return tensor;
}

/// Gradients by the call that writes into the caller's tensors, which hold NaN before and lie [b, h, n, d].
template <class Scalar, class Attention>
ra::Gradients<Scalar> backward_into_views(const Attention& attention, const ra::Tensor<Scalar>& q,
                                          const ra::Tensor<Scalar>& k, const ra::Tensor<Scalar>& v,
                                          const ra::AttentionResult<Scalar>& result,
                                          const ra::Tensor<Scalar>& grad_out,
                                          const ra::BackwardOptions& options) {
  const auto poisoned = [](const ra::Tensor<Scalar>& like) {
    const auto [b, n, h, d] = like.shape();
    ra::Tensor<Scalar> tensor(b, h, n, d);
    std::fill_n(tensor.data(), tensor.size(), Scalar(std::numeric_limits<float>::quiet_NaN()));
    return tensor;
  };
  ra::Tensor<Scalar> grads[] = {poisoned(q), poisoned(k), poisoned(v)};
  const auto view = [&grads](int i) { return ra::swap_sequence_and_heads(grads[i].view()); };
  attention.backward(q.view(), k.view(), v.view(), result.out.view(), result.lse.view(), grad_out.view(),
                     ra::GradientViews<Scalar>{view(0), view(1), view(2)}, options);
  const auto copy = [](const ra::TensorView<Scalar>& from) {
    ra::Tensor<Scalar> to(from.shape());
    for (std::int64_t b = 0; b < to.shape()[0]; ++b) {
      for (std::int64_t n = 0; n < to.shape()[1]; ++n) {
        for (std::int64_t h = 0; h < to.shape()[2]; ++h) {
          std::copy_n(from.row(b, n, h), to.shape()[3], to.view().row(b, n, h));
        }
      }
    }
    return to;
  };
  return {copy(view(0)), copy(view(1)), copy(view(2))};
}

/// Runs forward_with_lse and backward of an attention object on the case's shapes; empty where the gradients
/// agree with the oracle's. Half of the cases have a gradient of the log-sum-exp, too, and half of the calls
/// write into tensors of the caller's.
template <class Scalar, class Attention>
std::string check_backward(const RandomCase& c, const Attention& attention,
                           const InputFactors& factors = {}) {
  using Accumulator = ra::accumulator_t<Scalar>;
  const ThreadScope threads(c.threads);
  Random random(c.seed ^ 0x5bd1e995);
  const auto q = multiplied(random_tensor<Scalar>(c.q, c.lengths, random), factors.q);
  const auto k = multiplied(random_tensor<Scalar>(c.k, c.lengths, random), factors.k);
  const auto v = multiplied(random_tensor<Scalar>(c.k, c.lengths, random), factors.v);
  const auto grad_out = multiplied(random_tensor<Scalar>(c.q, c.lengths, random), factors.grad_out);
  const ra::AttentionResult<Scalar> result =
      attention.forward_with_lse(q, k, v, ra::ForwardOptions{.lengths = c.lengths});
  ra::BackwardOptions options{.lengths = c.lengths};
  ra::Tensor<Accumulator> grad_lse;
  std::vector<double> expected_grad_lse;
  if (c.seed % 2 == 1) {
    grad_lse = ra::Tensor<Accumulator>(result.lse.shape());
    for (std::int64_t i = 0; i < grad_lse.size(); ++i)
      grad_lse.data()[i] = static_cast<Accumulator>(random.normal());
    options.grad_lse = grad_lse;
    expected_grad_lse.assign(grad_lse.data(), grad_lse.data() + grad_lse.size());
  }
  const ra::Gradients<Scalar> grads =
      c.seed % 4 < 2 ? attention.backward(q, k, v, result, grad_out, options)
                     : backward_into_views(attention, q, k, v, result, grad_out, options);

  oracle::Problem problem = to_problem(c.config, c.q, c.k, c.lengths);
  // A head with one branch has no mixing weight to differentiate.
  if (problem.head_partition == oracle::HeadPartition::grouped || problem.branches.size() == 1) {
    problem.mix_gradient = oracle::MixGradient::exact;
  }
  const oracle::Inputs inputs{without_nan(to_float64(q.view())), without_nan(to_float64(k.view())),
                              without_nan(to_float64(v.view()))};
  const double factor = oracle::forward(problem, inputs).tolerance_factor();
  return compare_gradients(
      grads,
      oracle::backward(problem, inputs, without_nan(to_float64(grad_out.view())), expected_grad_lse,
                       sizeof(Scalar) == 2 ? to_float64(result.out.view()) : std::vector<double>()),
      tolerance_of<Scalar>(factor).gradient);
}

}  // namespace test
