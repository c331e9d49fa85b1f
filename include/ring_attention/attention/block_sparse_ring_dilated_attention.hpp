// BlockSparseRingDilatedAttention: attention restricted to active pairs of (query block, key block).
#pragma once

#include <cstddef>
#include <cstdint>
#include <ring_attention/attention/interface.hpp>
#include <ring_attention/block_probabilities.hpp>
#include <ring_attention/cpu/blocks.hpp>
#include <ring_attention/pattern/block_sparse_config.hpp>
#include <ring_attention/plan/make_plan.hpp>
#include <ring_attention/workspace.hpp>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {

/// Exact attention over the active blocks of a sequence, whole tensors in one process: every query of block i
/// attends to every key of the blocks that its list holds, in one softmax. Time grows with the number of
/// active blocks, memory beyond inputs and outputs is that of the threads' tiles, in backward also one number
/// per row and head and the lists of blocks once more.
///
/// The block list takes the place of branches and rules: of AttentionConfig, `causal` and `scale` count.
/// Everything else is checked and has no effect, `ring_size` included, because keys are visited block by
/// block anyway. A causal call drops blocks above the diagonal and masks those on it by element. A row whose
/// block has no list has output 0, log-sum-exp -infinity and gradient 0.
///
/// An item of length m has the list of a sequence of m tokens; listed pairs past its end are left out. Listed
/// pairs past the end of the call's n throw std::invalid_argument.
///
/// Immutable after construction; safe to call from several threads at once. Calls: see WholeTensorAttention.
template <typename Scalar, typename CachePolicy = use_pattern_cache>
class BlockSparseRingDilatedAttention
    : public WholeTensorAttention<BlockSparseRingDilatedAttention<Scalar, CachePolicy>, Scalar, CachePolicy> {
  using Base = WholeTensorAttention<BlockSparseRingDilatedAttention, Scalar, CachePolicy>;
  friend Base;

 public:
  using typename Base::Accumulator;  ///< type of the log-sum-exp
  using typename Base::Input;        ///< a tensor that is read

  /// Throws std::invalid_argument for a configuration that breaks a rule.
  explicit BlockSparseRingDilatedAttention(AttentionConfig config, BlockSparseConfig sparse = {},
                                           CachePolicy cache_policy = CachePolicy())
      : Base(std::move(config), std::move(cache_policy)), sparse_(std::move(sparse)) {
    sparse_.validate();
  }

  /// The same with the default blocks.
  BlockSparseRingDilatedAttention(AttentionConfig config, CachePolicy cache_policy)
      : BlockSparseRingDilatedAttention(std::move(config), BlockSparseConfig{}, std::move(cache_policy)) {}

  const BlockSparseConfig& sparse_config() const { return sparse_; }  ///< as given to the constructor

  /// Output, log-sum-exp, and the probabilities of every active block, which take block_size^2 numbers each.
  BlockSparseResult<Scalar> forward_with_probabilities(Input q, Input k, Input v,
                                                       const ForwardOptions& options = {}) const {
    return forward_with_probabilities(Context(), q, k, v, options);
  }
  /// The same in a context.
  BlockSparseResult<Scalar> forward_with_probabilities(const Context& context, Input q, Input k, Input v,
                                                       const ForwardOptions& options = {}) const {
    const CallShape shape = detail::check_inputs(q, k, v);
    const detail::PlannedCall call = plan_blocks(shape, options.lengths);
    const auto forward = engine::execution_of<engine::ForwardKernel<Scalar>>(context);
    const auto recompute = engine::execution_of<engine::ProbabilityKernel<Scalar>>(context);
    const detail::CallMemory memory(forward.workspace);
    BlockSparseResult<Scalar> result;
    result.result.out = Tensor<Scalar>(q.shape(), detail::Uninitialized{});
    result.result.lse = Tensor<Accumulator>(detail::lse_shape(q.shape()), detail::Uninitialized{});
    const detail::ForwardTensors<Scalar> tensors{q, k, v, result.result.out, result.result.lse};
    engine::forward_blocks(call.plan, tensors, forward, *memory);
    result.probabilities = engine::block_probabilities(call.plan, tensors, recompute, *memory);
    return result;
  }

 private:
  detail::PlannedCall plan_blocks(const CallShape& shape, const std::vector<std::int64_t>& lengths) const {
    return detail::plan_block_call(this->config(), sparse_, shape, lengths,
                                   [this](const PatternKey& key) { return this->apply_dilation(key); });
  }

  void run_forward(const CallShape& shape, const detail::ForwardTensors<Scalar>& tensors,
                   const ForwardOptions& options, const engine::ForwardExecution<Scalar>& execution) const {
    const detail::CallMemory memory(execution.workspace);
    engine::forward_blocks(plan_blocks(shape, options.lengths).plan, tensors, execution, *memory);
  }

  void run_backward(const CallShape& shape, const detail::BackwardTensors<Scalar>& tensors,
                    const GradientViews<Scalar>& grads, const BackwardOptions& options,
                    const engine::BackwardExecution<Scalar>& execution) const {
    const detail::CallMemory memory(execution.workspace);
    engine::backward_blocks(plan_blocks(shape, options.lengths).plan, tensors, grads, execution, *memory);
  }

  BlockSparseConfig sparse_;
};

}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
