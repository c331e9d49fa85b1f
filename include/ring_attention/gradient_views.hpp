// GradientViews: the caller's tensors that backward writes to.
#pragma once

#include <ring_attention/tensor.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// Tensors that backward writes gradients to, shaped like q, k and v. They are overwritten and need not hold
/// zeros.
template <class Scalar>
struct GradientViews {
  TensorView<Scalar> q;  ///< [b, n, h, d]
  TensorView<Scalar> k;  ///< [b, n, h_kv, d], summed over the query heads that share a key/value head
  TensorView<Scalar> v;  ///< [b, n, h_kv, d], summed over the query heads that share a key/value head
};

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
