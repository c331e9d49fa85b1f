// What the attention classes that take whole tensors have in common: the calls, their checks, and pattern
// lookup.
#pragma once

#include <ring_attention/config.hpp>
#include <ring_attention/cpu/backward_arguments.hpp>
#include <ring_attention/cpu/forward_arguments.hpp>
#include <ring_attention/cuda_views.hpp>
#include <ring_attention/kernel/choice.hpp>
#include <ring_attention/options.hpp>
#include <ring_attention/pattern/cache_policy.hpp>
#include <ring_attention/plan/call_checks.hpp>
#include <ring_attention/plan/make_plan.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <string>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
/// Calls of an attention class over whole tensors. `Derived` says how a checked call is carried out, by
/// `run_forward(shape, tensors, options, execution)` and `run_backward(shape, tensors, grads, options,
/// execution)`. Every call takes a Context as an optional first argument.
///
/// Calls that take a cuda::Context and views of device memory run on a GPU, with the same shapes and checks.
/// They are queued and return. Only units that include <ring_attention/cuda.hpp> can make them, and only of
/// RingDilatedAttentionV2, RingDilatedAttentionProduction and BlockSparseRingDilatedAttention. backward does
/// not run on GPUs yet.
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
  using Accumulator = accumulator_t<Scalar>;       ///< type of the log-sum-exp
  using Input = TensorView<const Scalar>;          ///< a tensor that is read
  using Output = TensorView<Scalar>;               ///< a tensor that is written
  using LseInput = TensorView<const Accumulator>;  ///< a log-sum-exp that is read
  using LseOutput = TensorView<Accumulator>;       ///< a log-sum-exp that is written

  using DeviceInput = cuda::View<const Scalar>;          ///< a tensor on a GPU that is read
  using DeviceOutput = cuda::View<Scalar>;               ///< a tensor on a GPU that is written
  using DeviceLseInput = cuda::View<const Accumulator>;  ///< a log-sum-exp on a GPU that is read
  using DeviceLseOutput = cuda::View<Accumulator>;       ///< a log-sum-exp on a GPU that is written

  const AttentionConfig& config() const { return config_; }          ///< as given to the constructor
  const CachePolicy& cache_policy() const { return cache_policy_; }  ///< as given to the constructor

  /// The attention of every query, [b, n, h, d]. Shapes of the arguments and errors: see
  /// WholeTensorAttention.
  Tensor<Scalar> forward(Input q, Input k, Input v, const ForwardOptions& options = {}) const {
    return forward(Context(), q, k, v, options);
  }
  /// The same in a context.
  Tensor<Scalar> forward(const Context& context, Input q, Input k, Input v,
                         const ForwardOptions& options = {}) const {
    const CallShape shape = detail::check_inputs(q, k, v);
    Tensor<Scalar> out(q.shape(), detail::Uninitialized{});
    derived().run_forward(shape, {q, k, v, out, {}}, options,
                          engine::execution_of<engine::ForwardKernel<Scalar>>(context));
    return out;
  }

  /// Writes into the caller's tensor.
  void forward(Input q, Input k, Input v, Output out, const ForwardOptions& options = {}) const {
    forward(Context(), q, k, v, out, options);
  }
  /// The same in a context.
  void forward(const Context& context, Input q, Input k, Input v, Output out,
               const ForwardOptions& options = {}) const {
    const CallShape shape = detail::check_inputs(q, k, v);
    detail::check_outputs<Scalar>({q, k, v, out, {}}, false);
    derived().run_forward(shape, {q, k, v, out, {}}, options,
                          engine::execution_of<engine::ForwardKernel<Scalar>>(context));
  }

  /// Writes output and log-sum-exp into the caller's tensors.
  void forward(Input q, Input k, Input v, Output out, LseOutput lse,
               const ForwardOptions& options = {}) const {
    forward(Context(), q, k, v, out, lse, options);
  }
  /// The same in a context.
  void forward(const Context& context, Input q, Input k, Input v, Output out, LseOutput lse,
               const ForwardOptions& options = {}) const {
    const CallShape shape = detail::check_inputs(q, k, v);
    detail::check_outputs<Scalar>({q, k, v, out, lse}, true);
    derived().run_forward(shape, {q, k, v, out, lse}, options,
                          engine::execution_of<engine::ForwardKernel<Scalar>>(context));
  }

  /// On a GPU. Memory of the tensors is used until the call has run on the context's stream.
  void forward(cuda::Context& context, DeviceInput q, DeviceInput k, DeviceInput v, DeviceOutput out,
               const ForwardOptions& options = {}) const;
  /// The same, and the log-sum-exp.
  void forward(cuda::Context& context, DeviceInput q, DeviceInput k, DeviceInput v, DeviceOutput out,
               DeviceLseOutput lse, const ForwardOptions& options = {}) const;

  /// Output [b, n, h, d] and log-sum-exp {b, h, n, 1}, which backward needs.
  AttentionResult<Scalar> forward_with_lse(Input q, Input k, Input v,
                                           const ForwardOptions& options = {}) const {
    return forward_with_lse(Context(), q, k, v, options);
  }
  /// The same in a context.
  AttentionResult<Scalar> forward_with_lse(const Context& context, Input q, Input k, Input v,
                                           const ForwardOptions& options = {}) const {
    const CallShape shape = detail::check_inputs(q, k, v);
    AttentionResult<Scalar> result{
        Tensor<Scalar>(q.shape(), detail::Uninitialized{}),
        Tensor<Accumulator>(detail::lse_shape(q.shape()), detail::Uninitialized{})};
    derived().run_forward(shape, {q, k, v, result.out, result.lse}, options,
                          engine::execution_of<engine::ForwardKernel<Scalar>>(context));
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
    return backward(Context(), q, k, v, result, grad_out, options);
  }
  /// The same in a context.
  Gradients<Scalar> backward(const Context& context, Input q, Input k, Input v,
                             const AttentionResult<Scalar>& result, Input grad_out,
                             const BackwardOptions& options = {}) const {
    const detail::BackwardTensors<Scalar> tensors{
        q, k, v, result.out, grad_out, result.lse, grad_lse_of(options, q)};
    const CallShape shape = check_backward(tensors, "result.out", "result.lse");
    Gradients<Scalar> grads{Tensor<Scalar>(q.shape(), detail::Uninitialized{}),
                            Tensor<Scalar>(k.shape(), detail::Uninitialized{}),
                            Tensor<Scalar>(v.shape(), detail::Uninitialized{})};
    derived().run_backward(shape, tensors, {grads.q, grads.k, grads.v}, options,
                           engine::execution_of<engine::BackwardKernel<Scalar>>(context));
    return grads;
  }

  /// Overwrites the caller's tensors, which need not hold zeros.
  void backward(Input q, Input k, Input v, Input out, LseInput lse, Input grad_out,
                const GradientViews<Scalar>& grads, const BackwardOptions& options = {}) const {
    backward(Context(), q, k, v, out, lse, grad_out, grads, options);
  }
  /// The same in a context.
  void backward(const Context& context, Input q, Input k, Input v, Input out, LseInput lse, Input grad_out,
                const GradientViews<Scalar>& grads, const BackwardOptions& options = {}) const {
    const detail::BackwardTensors<Scalar> tensors{q, k, v, out, grad_out, lse, grad_lse_of(options, q)};
    const CallShape shape = check_backward(tensors, "out", "lse");
    detail::check_gradients(tensors, grads);
    derived().run_backward(shape, tensors, grads, options,
                           engine::execution_of<engine::BackwardKernel<Scalar>>(context));
  }

  /// Gradients are not computed on GPUs yet.
  void backward(cuda::Context& context, DeviceInput q, DeviceInput k, DeviceInput v, DeviceInput out,
                DeviceLseInput lse, DeviceInput grad_out, const cuda::GradientViews<Scalar>& grads,
                const cuda::BackwardOptions& options = {}) const = delete;

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
  detail::PlannedCall plan_call(const CallShape& shape, const std::vector<std::int64_t>& lengths) const {
    return detail::plan_call(config_, shape, lengths,
                             [this](const PatternKey& key) { return apply_dilation(key); });
  }

 private:
  static LseInput grad_lse_of(const BackwardOptions& options, const Input& q) {
    return detail::checked_grad_lse<Accumulator>(options, detail::lse_shape(q.shape()));
  }

  static CallShape check_backward(const detail::BackwardTensors<Scalar>& tensors, const char* out,
                                  const char* lse) {
    const CallShape shape = detail::check_inputs(tensors.q, tensors.k, tensors.v);
    detail::check_saved(tensors, out, lse);
    return shape;
  }

  /// Of checked tensors on a GPU. Defined by <ring_attention/cuda.hpp>.
  template <class Tensors>
  void queue_forward(cuda::Context& context, const CallShape& shape, const Tensors& tensors,
                     const ForwardOptions& options) const;

  const Derived& derived() const { return static_cast<const Derived&>(*this); }

  AttentionConfig config_;
  CachePolicy cache_policy_;
};

}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
