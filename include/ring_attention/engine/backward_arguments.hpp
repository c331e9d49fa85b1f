// Tensors of a backward call, and their checks.
#pragma once

#include <ring_attention/attention/options.hpp>
#include <ring_attention/engine/call_checks.hpp>
#include <ring_attention/gradient_views.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <ring_attention/version.hpp>
#include <string_view>
#include <variant>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

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
    detail::throw_invalid("grad_lse", "tensor of another scalar type",
                          sizeof(T) == sizeof(double) ? "must be double, as the log-sum-exp is"
                                                      : "must be float, as the log-sum-exp is");
  }
  if (view->shape() != expected) {
    detail::throw_invalid("grad_lse shape", to_string(view->shape()), "must be " + to_string(expected));
  }
  return *view;
}

/// Checks what forward left and the gradient of the output against q, which has been checked.
template <class Scalar>
void check_saved(const BackwardTensors<Scalar>& tensors, std::string_view out, std::string_view lse) {
  detail::check_shape(out, tensors.out.shape(), tensors.q.shape());
  detail::check_shape(lse, tensors.lse.shape(), detail::lse_shape(tensors.q.shape()));
  detail::check_shape("grad_out", tensors.grad_out.shape(), tensors.q.shape());
}

/// Checks the caller's gradients: their shapes, and that they share no memory with another tensor of the
/// call.
template <class Scalar>
void check_gradients(const BackwardTensors<Scalar>& tensors, const GradientViews<Scalar>& grads) {
  const auto check = [&tensors](std::string_view name, const TensorView<Scalar>& grad, const Shape& shape) {
    detail::check_output(name, grad, shape);
    detail::check_apart(name, grad, "q", tensors.q);
    detail::check_apart(name, grad, "k", tensors.k);
    detail::check_apart(name, grad, "v", tensors.v);
    detail::check_apart(name, grad, "out", tensors.out);
    detail::check_apart(name, grad, "lse", tensors.lse);
    detail::check_apart(name, grad, "grad_out", tensors.grad_out);
    detail::check_apart(name, grad, "grad_lse", tensors.grad_lse);
  };
  check("grads.q", grads.q, tensors.q.shape());
  check("grads.k", grads.k, tensors.k.shape());
  check("grads.v", grads.v, tensors.v.shape());
  detail::check_apart("grads.k", grads.k, "grads.q", grads.q);
  detail::check_apart("grads.v", grads.v, "grads.q", grads.q);
  detail::check_apart("grads.v", grads.v, "grads.k", grads.k);
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
