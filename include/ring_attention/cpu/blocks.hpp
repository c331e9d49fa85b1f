// Block-sparse calls over whole tensors in one process.
#pragma once

#include <ring_attention/aligned_block.hpp>
#include <ring_attention/block_probabilities.hpp>
#include <ring_attention/cpu/backward_arguments.hpp>
#include <ring_attention/cpu/forward_arguments.hpp>
#include <ring_attention/gradient_views.hpp>
#include <ring_attention/kernel/execution.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Executes a block-sparse plan; `tensors.lse` may be a view without data: then it is not written. Works in
/// `memory`, which it makes larger if need be.
template <class Scalar>
void forward_blocks(const AttentionPlan& plan, const detail::ForwardTensors<Scalar>& tensors,
                    const ForwardExecution<Scalar>& execution, detail::Block& memory);

/// The same for the gradients, which are overwritten.
template <class Scalar>
void backward_blocks(const AttentionPlan& plan, const detail::BackwardTensors<Scalar>& tensors,
                     const GradientViews<Scalar>& grads, const BackwardExecution<Scalar>& execution,
                     detail::Block& memory);

/// The probabilities of every active block, recomputed from the log-sum-exp.
template <class Scalar>
BlockProbabilities<Scalar> block_probabilities(const AttentionPlan& plan,
                                               const detail::ForwardTensors<Scalar>& tensors,
                                               const ProbabilityExecution<Scalar>& execution,
                                               detail::Block& memory);

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention

#if RING_ATTENTION_DEFINES_ENGINE
#include <ring_attention/cpu/block_backward.hpp>
#include <ring_attention/cpu/block_forward.hpp>
#include <ring_attention/cpu/block_probability_pass.hpp>
#endif
