// RingDilatedAttentionV2: ring dilated attention in one process, whole tensors in and out.
#pragma once

#include <ring_attention/attention/options.hpp>
#include <ring_attention/config.hpp>
#include <ring_attention/engine/forward.hpp>
#include <ring_attention/engine/plan.hpp>
#include <ring_attention/pattern/cache_policy.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <utility>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {

/// Exact dilated attention (LongNet, arXiv 2307.02486, eq. 2-11) over whole tensors in one process.
///
/// Keys are visited shard by shard, `config.ring_size` of them, and merged by an online softmax, so that
/// working memory beyond inputs and outputs is O(n / ring_size); the result does not depend on the ring size
/// up to rounding. Immutable after construction; safe to call from several threads at once.
///
/// Shapes: q and out [b, n, h, d]; k and v [b, n, h_kv, d] with `h % h_kv == 0`, query head j reads key/value
/// head `j / (h / h_kv)`; lse {b, h, n, 1}. Any strides; outputs must not overlap inputs. Errors:
/// std::invalid_argument that names the argument, its value and the rule it breaks.
template <typename Scalar, typename CachePolicy = use_pattern_cache>
class RingDilatedAttentionV2 {
  static_assert(
      AttentionScalar<Scalar>,
      "RingDilatedAttentionV2<Scalar>: Scalar must be float, double, Eigen::half or Eigen::bfloat16");
  static_assert(
      PatternCachePolicy<CachePolicy>,
      "RingDilatedAttentionV2<Scalar, CachePolicy>: CachePolicy must be use_pattern_cache, use_local_cache, "
      "use_no_cache or a type with `dilated_indices(const PatternKey&) const` that returns a "
      "std::shared_ptr<const DilatedIndices>, because patterns are looked up only through it");

 public:
  using Accumulator = accumulator_t<Scalar>;
  using Input = TensorView<const Scalar>;

  /// Throws std::invalid_argument for a configuration that breaks a rule.
  explicit RingDilatedAttentionV2(AttentionConfig config, CachePolicy cache_policy = CachePolicy())
      : config_(std::move(config)), cache_policy_(std::move(cache_policy)) {
    config_.validate();
  }

  const AttentionConfig& config() const { return config_; }
  const CachePolicy& cache_policy() const { return cache_policy_; }

  Tensor<Scalar> forward(Input q, Input k, Input v, const ForwardOptions& options = {}) const {
    const AttentionPlan plan = plan_call(q, k, v, options);
    Tensor<Scalar> out(q.shape(), detail::Uninitialized{});
    engine::attend<Scalar>(plan, q, k, v, out, {});
    return out;
  }

  /// Writes into the caller's tensor.
  void forward(Input q, Input k, Input v, TensorView<Scalar> out, const ForwardOptions& options = {}) const {
    const AttentionPlan plan = plan_call(q, k, v, options);
    detail::check_output("out", out, q.shape());
    engine::attend<Scalar>(plan, q, k, v, out, {});
  }

  /// Writes output and log-sum-exp into the caller's tensors.
  void forward(Input q, Input k, Input v, TensorView<Scalar> out, TensorView<Accumulator> lse,
               const ForwardOptions& options = {}) const {
    const AttentionPlan plan = plan_call(q, k, v, options);
    detail::check_output("out", out, q.shape());
    detail::check_output("lse", lse, detail::lse_shape(q.shape()));
    engine::attend<Scalar>(plan, q, k, v, out, lse);
  }

  AttentionResult<Scalar> forward_with_lse(Input q, Input k, Input v,
                                           const ForwardOptions& options = {}) const {
    const AttentionPlan plan = plan_call(q, k, v, options);
    AttentionResult<Scalar> result{
        Tensor<Scalar>(q.shape(), detail::Uninitialized{}),
        Tensor<Accumulator>(detail::lse_shape(q.shape()), detail::Uninitialized{})};
    engine::attend<Scalar>(plan, q, k, v, result.out, result.lse);
    return result;
  }

 private:
  AttentionPlan plan_call(const Input& q, const Input& k, const Input& v,
                          const ForwardOptions& options) const {
    return detail::make_plan(config_, detail::check_inputs(q, k, v), options.lengths,
                             [this](const PatternKey& key) { return apply_dilation(key); });
  }

  /// The one place where indices are looked up, and only through the policy.
  PatternCache::Pattern apply_dilation(const PatternKey& key) const {
    return cache_policy_.dilated_indices(key);
  }

  AttentionConfig config_;
  CachePolicy cache_policy_;
};

}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
