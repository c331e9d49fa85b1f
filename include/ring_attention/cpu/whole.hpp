// One process, whole tensors: what an attention class calls. Defined in whole_forward.hpp and
// whole_backward.hpp.
#pragma once

#include <cstddef>
#include <limits>
#include <ring_attention/aligned_block.hpp>
#include <ring_attention/context.hpp>
#include <ring_attention/cpu/backward_arguments.hpp>
#include <ring_attention/cpu/forward_arguments.hpp>
#include <ring_attention/gradient_views.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/version.hpp>

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
                          const Execution<Scalar>& execution, std::size_t limit, detail::Block& memory);

/// The same for the gradients, which are overwritten.
template <class Scalar>
std::size_t backward_whole(const AttentionPlan& plan, const detail::BackwardTensors<Scalar>& tensors,
                           const GradientViews<Scalar>& grads, const Execution<Scalar>& execution,
                           std::size_t limit, detail::Block& memory);

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
