// Kernels on GPUs by name.
#pragma once

#include <ring_attention/cuda/definitions.hpp>
#include <ring_attention/version.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace cuda {
// What a unit carries depends on its compiler's options.
inline namespace RING_ATTENTION_CODE_NAMESPACE {

/// Names of the kernels that a device runs with the code that the program carries, the best first: "sm80",
/// tensor cores of compute capability 8.0 and newer, for half and bfloat16, and for float up to a head
/// dimension of 128, in rows aligned to 16 bytes; "generic", plain arithmetic, which serves everything. Empty
/// if the program has no code for the device's architecture. Throws cuda::Error if there is no such device.
std::vector<std::string> available_kernels(int device);

/// Chooses the kernel of all calls that begin from now on, in the whole process; an empty name: the best one.
/// Calls that it does not serve, or whose device does not run it, take the next one. Throws
/// std::invalid_argument for a name that no device runs.
void set_kernel(std::string_view name);

}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace cuda
}  // namespace RING_ATTENTION_NAMESPACE

inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// The virtual architecture of the code that a device runs, 80 for compute_80. Throws cuda::Error if the
/// program carries none for it, or code without the arithmetic that the kernels need. Asks a device once in a
/// program, which takes a small kernel.
int require_program_for(int device);

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention

#if RING_ATTENTION_DEFINES_CUDA
#include <ring_attention/cuda/program_check.inl>
#endif
