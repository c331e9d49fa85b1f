// Arguments and results that the attention classes share.
#pragma once

#include <cstdint>
#include <ring_attention/gradient_views.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <variant>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// What a forward call may be given beside its tensors.
struct ForwardOptions {
  /// One valid length in [0, n] per batch item; empty: every item has n tokens. An item of length m is
  /// computed as if it were alone with n = m. Rows from m on are never read; their output is 0, their
  /// log-sum-exp -infinity.
  std::vector<std::int64_t> lengths = {};
};

/// What a backward call may be given beside its tensors.
struct BackwardOptions {
  /// As given to forward.
  std::vector<std::int64_t> lengths = {};
  /// Gradient of the log-sum-exp, {b, h, n, 1} in the type of AttentionResult::lse; by default none. Under
  /// MixGradient::detached, too, the log-sum-exp is differentiated exactly.
  std::variant<std::monostate, TensorView<const float>, TensorView<const double>> grad_lse = {};
};

/// What forward_with_lse returns.
template <class Scalar>
struct AttentionResult {
  Tensor<Scalar> out;                 ///< [b, n, h, d]
  Tensor<accumulator_t<Scalar>> lse;  ///< {b, h, n, 1}, natural log-sum-exp of each row's scaled scores over
                                      ///< all branches, zero keys included; -infinity for a row without keys
};

/// What backward returns: gradients shaped like q, k and v.
template <class Scalar>
struct Gradients {
  Tensor<Scalar> q;  ///< [b, n, h, d]
  Tensor<Scalar> k;  ///< [b, n, h_kv, d], summed over the query heads that share a key/value head
  Tensor<Scalar> v;  ///< [b, n, h_kv, d], summed over the query heads that share a key/value head
};

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
