// RingDilatedAttentionV2: ring dilated attention in one process, whole tensors in and out.
#pragma once

#include <ring_attention/attention/interface.hpp>
#include <ring_attention/cpu/whole.hpp>
#include <ring_attention/workspace.hpp>
#include <utility>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {

/// Exact dilated attention (LongNet, arXiv 2307.02486, eq. 2-11) over whole tensors in one process.
///
/// Keys are visited shard by shard, `config.ring_size` of them, and merged by an online softmax, so that
/// working memory beyond inputs and outputs is O(n / ring_size), in backward plus one number per row and head
/// (two where mixing weights are detached; of 16-bit scalars then one per branch and one more). The result
/// does not depend on the ring size up to rounding. Where memory runs out, smaller chunks take less;
/// OutOfWorkspace at the end, before anything is computed. Immutable after construction; safe to call from
/// several threads at once. Calls: see WholeTensorAttention.
template <typename Scalar, typename CachePolicy = use_pattern_cache>
class RingDilatedAttentionV2
    : public WholeTensorAttention<RingDilatedAttentionV2<Scalar, CachePolicy>, Scalar, CachePolicy> {
  using Base = WholeTensorAttention<RingDilatedAttentionV2, Scalar, CachePolicy>;
  friend Base;

 public:
  /// Throws std::invalid_argument for a configuration that breaks a rule.
  explicit RingDilatedAttentionV2(AttentionConfig config, CachePolicy cache_policy = CachePolicy())
      : Base(std::move(config), std::move(cache_policy)) {}

 private:
  void run_forward(const CallShape& shape, const detail::ForwardTensors<Scalar>& tensors,
                   const ForwardOptions& options, const engine::ForwardExecution<Scalar>& execution) const {
    const detail::CallMemory memory(execution.workspace);
    engine::forward_whole(this->plan_call(shape, options.lengths).plan, tensors, execution, engine::no_limit,
                          *memory);
  }

  void run_backward(const CallShape& shape, const detail::BackwardTensors<Scalar>& tensors,
                    const GradientViews<Scalar>& grads, const BackwardOptions& options,
                    const engine::BackwardExecution<Scalar>& execution) const {
    const detail::CallMemory memory(execution.workspace);
    engine::backward_whole(this->plan_call(shape, options.lengths).plan, tensors, grads, execution,
                           engine::no_limit, *memory);
  }
};

}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
