// Tensors of a backward call, and their checks.
#pragma once

#include <ring_attention/gradient_views.hpp>
#include <ring_attention/options.hpp>
#include <ring_attention/plan/call_checks.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <ring_attention/version.hpp>
#include <string_view>
#include <variant>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Tensors that a backward call reads, as one process or ring member holds them.
template <class Scalar>
struct BackwardTensors {
  TensorView<const Scalar> q, k, v, out, grad_out;
  TensorView<const accumulator_t<Scalar>> lse;
  TensorView<const accumulator_t<Scalar>> grad_lse;  // may be without data
};

/// The log-sum-exp's gradient as the accumulator type of a call; a view without data where there is none.
template <class T>
TensorView<const T> checked_grad_lse(const BackwardOptions& options, const Shape& expected) {
  if (std::holds_alternative<std::monostate>(options.grad_lse)) return {};
  const auto* view = std::get_if<TensorView<const T>>(&options.grad_lse);
  if (view == nullptr) {
    throw_invalid("grad_lse", "tensor of another scalar type",
                  sizeof(T) == sizeof(double) ? "must be double, as the log-sum-exp is"
                                              : "must be float, as the log-sum-exp is");
  }
  if (view->shape() != expected) {
    throw_invalid("grad_lse shape", to_string(view->shape()), "must be " + to_string(expected));
  }
  return *view;
}

/// Checks what forward left and the gradient of the output against q, which has been checked.
template <class Scalar>
void check_saved(const BackwardTensors<Scalar>& tensors, std::string_view out, std::string_view lse) {
  check_shape(out, tensors.out.shape(), tensors.q.shape());
  check_shape(lse, tensors.lse.shape(), lse_shape(tensors.q.shape()));
  check_shape("grad_out", tensors.grad_out.shape(), tensors.q.shape());
}

/// Checks the caller's gradients: their shapes, and that they share no memory with another tensor of the
/// call.
template <class Scalar>
void check_gradients(const BackwardTensors<Scalar>& tensors, const GradientViews<Scalar>& grads) {
  const auto check_one = [&tensors](std::string_view name, const TensorView<Scalar>& grad,
                                    const Shape& shape) {
    check_output(name, grad, shape);
    check_apart(name, grad, "q", tensors.q);
    check_apart(name, grad, "k", tensors.k);
    check_apart(name, grad, "v", tensors.v);
    check_apart(name, grad, "out", tensors.out);
    check_apart(name, grad, "lse", tensors.lse);
    check_apart(name, grad, "grad_out", tensors.grad_out);
    check_apart(name, grad, "grad_lse", tensors.grad_lse);
  };
  check_one("grads.q", grads.q, tensors.q.shape());
  check_one("grads.k", grads.k, tensors.k.shape());
  check_one("grads.v", grads.v, tensors.v.shape());
  check_apart("grads.k", grads.k, "grads.q", grads.q);
  check_apart("grads.v", grads.v, "grads.q", grads.q);
  check_apart("grads.v", grads.v, "grads.k", grads.k);
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
