// What the attention classes that take whole tensors have in common: the calls, their checks, and pattern
// lookup.
#pragma once

#include <ring_attention/attention/options.hpp>
#include <ring_attention/config.hpp>
#include <ring_attention/engine/forward.hpp>
#include <ring_attention/engine/plan.hpp>
#include <ring_attention/engine/whole_backward.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/pattern/cache_policy.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <string>
#include <utility>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

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

}  // namespace engine

/// Calls of an attention class over whole tensors. `Derived` says how a checked call is carried out, by
/// `run_forward(shape, tensors, options)` and `run_backward(shape, tensors, grads, options)`.
///
/// Shapes: q, out and grad_out [b, n, h, d]; k and v [b, n, h_kv, d] with `h % h_kv == 0`, query head j reads
/// key/value head `j / (h / h_kv)`; lse {b, h, n, 1}. Any strides; rows of an output must overlap
/// neither each other nor another tensor of the call.
/// Errors: std::invalid_argument that names the argument, its value and the rule it breaks.
template <class Derived, typename Scalar, typename CachePolicy>
class WholeTensorAttention {
  static_assert(AttentionScalar<Scalar>, "Scalar must be float, double, Eigen::half or Eigen::bfloat16");
  static_assert(detail::is_cache_policy<CachePolicy>());

 public:
  using Accumulator = accumulator_t<Scalar>;  ///< type of the log-sum-exp
  using Input = TensorView<const Scalar>;     ///< a tensor that is read

  const AttentionConfig& config() const { return config_; }          ///< as given to the constructor
  const CachePolicy& cache_policy() const { return cache_policy_; }  ///< as given to the constructor

  /// The attention of every query, [b, n, h, d]. Shapes of the arguments and errors: see
  /// WholeTensorAttention.
  Tensor<Scalar> forward(Input q, Input k, Input v, const ForwardOptions& options = {}) const {
    const CallShape shape = detail::check_inputs(q, k, v);
    Tensor<Scalar> out(q.shape(), detail::Uninitialized{});
    derived().run_forward(shape, {q, k, v, out, {}}, options);
    return out;
  }

  /// Writes into the caller's tensor.
  void forward(Input q, Input k, Input v, TensorView<Scalar> out, const ForwardOptions& options = {}) const {
    const CallShape shape = detail::check_inputs(q, k, v);
    check_outputs(q, k, v, out, {});
    derived().run_forward(shape, {q, k, v, out, {}}, options);
  }

  /// Writes output and log-sum-exp into the caller's tensors.
  void forward(Input q, Input k, Input v, TensorView<Scalar> out, TensorView<Accumulator> lse,
               const ForwardOptions& options = {}) const {
    const CallShape shape = detail::check_inputs(q, k, v);
    detail::check_output("lse", lse, detail::lse_shape(q.shape()));
    check_outputs(q, k, v, out, lse);
    derived().run_forward(shape, {q, k, v, out, lse}, options);
  }

  /// Output [b, n, h, d] and log-sum-exp {b, h, n, 1}, which backward needs.
  AttentionResult<Scalar> forward_with_lse(Input q, Input k, Input v,
                                           const ForwardOptions& options = {}) const {
    const CallShape shape = detail::check_inputs(q, k, v);
    AttentionResult<Scalar> result{
        Tensor<Scalar>(q.shape(), detail::Uninitialized{}),
        Tensor<Accumulator>(detail::lse_shape(q.shape()), detail::Uninitialized{})};
    derived().run_forward(shape, {q, k, v, result.out, result.lse}, options);
    return result;
  }

  /// Gradients of sum(out * grad_out) (+ sum(lse * grad_lse)), with probabilities recomputed tile by tile
  /// from the log-sum-exp of `result`, which forward_with_lse returned for the same inputs and lengths. With
  /// p = exp(score - lse) and D = rowsum(grad_out * out) - grad_lse: dV = p^T grad_out, dScore = p *
  /// (grad_out V^T - D), dQ = scale * dScore K, dK = scale * dScore^T Q (FlashAttention-2, arXiv 2307.08691,
  /// section 3.1.2). Under MixGradient::detached each branch has p and D of its own, and its dScore and dV
  /// are multiplied by its mixing weight.
  Gradients<Scalar> backward(Input q, Input k, Input v, const AttentionResult<Scalar>& result, Input grad_out,
                             const BackwardOptions& options = {}) const {
    const CallShape shape = detail::check_inputs(q, k, v);
    detail::check_shape("result.out", result.out.shape(), q.shape());
    detail::check_shape("result.lse", result.lse.shape(), detail::lse_shape(q.shape()));
    detail::check_shape("grad_out", grad_out.shape(), q.shape());
    const auto grad_lse = engine::checked_grad_lse<Accumulator>(options, detail::lse_shape(q.shape()));
    const auto zeros = [](const Shape& of) {
      Tensor<Scalar> tensor(of, detail::Uninitialized{});
      detail::fill_zeros(tensor.data(), tensor.size(), num_threads());
      return tensor;
    };
    Gradients<Scalar> grads{zeros(q.shape()), zeros(k.shape()), zeros(v.shape())};
    derived().run_backward(shape, {q, k, v, result.out, grad_out, result.lse, grad_lse},
                           {grads.q, grads.k, grads.v}, options);
    return grads;
  }

 protected:
  /// Throws std::invalid_argument for a configuration that breaks a rule.
  WholeTensorAttention(AttentionConfig config, CachePolicy cache_policy)
      : config_(std::move(config)), cache_policy_(std::move(cache_policy)) {
    config_.validate();
  }

  /// The one place where indices are looked up, and only through the policy.
  PatternCache::Pattern apply_dilation(const PatternKey& key) const {
    return cache_policy_.dilated_indices(key);
  }

  /// The same for a class that counts: sets `computed` where the policy can tell that the pattern was not at
  /// hand.
  PatternCache::Pattern apply_dilation(const PatternKey& key, bool& computed) const {
    if constexpr (requires { cache_policy_.dilated_indices(key, computed); }) {
      return cache_policy_.dilated_indices(key, computed);
    } else {
      return cache_policy_.dilated_indices(key);
    }
  }

  /// The plan of a call whose shapes were checked. Throws std::invalid_argument for lengths that do not fit.
  AttentionPlan make_plan(const CallShape& shape, const std::vector<std::int64_t>& lengths) const {
    return detail::make_plan(config_, shape, lengths,
                             [this](const PatternKey& key) { return apply_dilation(key); });
  }

 private:
  /// `lse` may be a view without data.
  static void check_outputs(const Input& q, const Input& k, const Input& v, const TensorView<Scalar>& out,
                            const TensorView<Accumulator>& lse) {
    detail::check_output("out", out, q.shape());
    detail::check_apart("out", out, "q", q);
    detail::check_apart("out", out, "k", k);
    detail::check_apart("out", out, "v", v);
    detail::check_apart("lse", lse, "q", q);
    detail::check_apart("lse", lse, "k", k);
    detail::check_apart("lse", lse, "v", v);
    detail::check_apart("lse", lse, "out", out);
  }

  const Derived& derived() const { return static_cast<const Derived&>(*this); }

  AttentionConfig config_;
  CachePolicy cache_policy_;
};

}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
