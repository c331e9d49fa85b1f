// Calls over whole tensors in one process.
#pragma once

#include <cstddef>
#include <limits>
#include <ring_attention/aligned_block.hpp>
#include <ring_attention/cpu/backward_arguments.hpp>
#include <ring_attention/cpu/forward_arguments.hpp>
#include <ring_attention/gradient_views.hpp>
#include <ring_attention/kernel/execution.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/tensor.hpp>
#include <ring_attention/version.hpp>
#include <string_view>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

inline constexpr std::size_t no_limit = (std::numeric_limits<std::size_t>::max)();

/// Executes a plan; `tensors.lse` may be a view without data: then it is not written. Works in `memory`,
/// which it makes larger if need be, with sizes that are fast, or smaller ones that need at most `limit`
/// bytes. Returns how many bytes it used. Throws std::invalid_argument for a limit below the least that would
/// do, and OutOfWorkspace if not even that can be had, both before anything is computed.
template <class Scalar>
std::size_t forward_whole(const AttentionPlan& plan, const detail::ForwardTensors<Scalar>& tensors,
                          const ForwardExecution<Scalar>& execution, std::size_t limit,
                          detail::Block& memory);

/// The same for the gradients, which are overwritten.
template <class Scalar>
std::size_t backward_whole(const AttentionPlan& plan, const detail::BackwardTensors<Scalar>& tensors,
                           const GradientViews<Scalar>& grads, const BackwardExecution<Scalar>& execution,
                           std::size_t limit, detail::Block& memory);

/// Throws std::invalid_argument with the position of the first element among the valid rows, in row-major
/// order, that is an infinity or NaN.
template <class Scalar>
void require_finite(std::string_view name, const TensorView<const Scalar>& view, const AttentionPlan& plan,
                    int threads);

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention

#if RING_ATTENTION_DEFINES_ENGINE
#include <ring_attention/cpu/finite_check.hpp>
#include <ring_attention/cpu/whole_backward.hpp>
#include <ring_attention/cpu/whole_forward.hpp>
#endif
