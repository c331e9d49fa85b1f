// Which kernels this processor runs, and which of them computes a call.
#pragma once

#include <ring_attention/context.hpp>
#include <ring_attention/kernel/execution.hpp>
#include <ring_attention/version.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// The two passes of attention, which may have different kernels.
enum class Direction {
  forward,   ///< outputs and log-sum-exp
  backward,  ///< gradients
};

}  // namespace RING_ATTENTION_NAMESPACE

inline namespace RING_ATTENTION_CODE_NAMESPACE {

/// Names of the kernels that this processor runs, the best first: of "amx_bf16", "avx512_bf16", "avx512",
/// "avx2" and "generic". The name says which instructions serve; a scalar for which an instruction set has
/// nothing of its own uses the next. Where there is AMX, Linux is asked for permission to use it, once.
std::vector<std::string> available_kernels();

/// Chooses the kernel of all calls that begin from now on, in the whole process; an empty name: what
/// RING_ATTENTION_KERNEL asks for, else the best one. Calls that are in progress keep theirs. Results of
/// different kernels agree up to rounding. Throws std::invalid_argument for a name that available_kernels()
/// does not list.
void set_kernel(std::string_view name);

/// Name of the kernel that serves calls for a scalar whose context names none: what set_kernel chose, else
/// what the environment variable RING_ATTENTION_KERNEL names, else the best one; or the next one, if that has
/// nothing of its own for the scalar and direction. Throws std::invalid_argument if the environment variable
/// names no kernel of this processor.
template <class Scalar>
std::string kernel_for(Direction direction);

namespace engine {

/// Throws std::invalid_argument for a kernel that this processor does not run, or one of another scalar, and
/// for a negative number of threads.
template <class Kernel>
Execution<Kernel> execution_of(const Context& context);

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention

#if RING_ATTENTION_DEFINES_ENGINE
#include <ring_attention/kernel/dispatch.hpp>
#endif
