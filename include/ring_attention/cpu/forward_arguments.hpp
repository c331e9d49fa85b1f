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

/// Checks the caller's output, and its log-sum-exp if it is wanted: their shapes, and that they share no
/// memory with another tensor of the call.
template <class Scalar>
void check_outputs(const ForwardTensors<Scalar>& tensors, bool with_lse) {
  const auto& [q, k, v, out, lse] = tensors;
  check_output("out", out, q.shape());
  if (with_lse) check_output("lse", lse, lse_shape(q.shape()));
  check_apart("out", out, "q", q);
  check_apart("out", out, "k", k);
  check_apart("out", out, "v", v);
  check_apart("lse", lse, "q", q);
  check_apart("lse", lse, "k", k);
  check_apart("lse", lse, "v", v);
  check_apart("lse", lse, "out", out);
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
