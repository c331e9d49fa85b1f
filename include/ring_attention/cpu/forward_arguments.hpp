// Tensors of a forward call, and their checks.
#pragma once

#include <ring_attention/plan/call_checks.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Tensors of one call as one member holds them. lse may be a view without data: then it is not wanted.
template <class Scalar>
struct ForwardTensors {
  TensorView<const Scalar> q, k, v;
  TensorView<Scalar> out;
  TensorView<accumulator_t<Scalar>> lse;
};

/// As check_forward_outputs.
template <class Scalar>
void check_outputs(const ForwardTensors<Scalar>& tensors, bool with_lse) {
  check_forward_outputs(tensors.q, tensors.k, tensors.v, tensors.out, tensors.lse, with_lse);
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
