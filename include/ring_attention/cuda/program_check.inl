// Whether a program can compute on a device: definitions of kernels.hpp. For nvcc.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ring_attention/cuda/device_kernel.hpp>
#include <ring_attention/cuda/device_memory.hpp>
#include <ring_attention/cuda/error.hpp>
#include <ring_attention/cuda/kernels.hpp>
#include <ring_attention/error.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// A subnormal number, unless the compiler was told to flush those to zero, as --use_fast_math does.
template <class T>
__global__ void halve(T smallest_normal, T* half) {
  *half = smallest_normal * T(0.5);
}

/// The virtual architecture of the code that the current device runs, 80 for compute_80; 0: the program has
/// none for it.
inline int code_version() {
  cudaFuncAttributes attributes{};
  const cudaError_t code = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(&halve<float>));
  if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction) {
    static_cast<void>(cudaGetLastError());
    return 0;
  }
  detail::throw_if_failed(code, "cudaFuncGetAttributes");
  return attributes.ptxVersion;
}

[[noreturn]] inline void throw_no_code(int device) {
  cudaDeviceProp properties{};
  detail::throw_if_failed(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  const std::string major = std::to_string(properties.major), minor = std::to_string(properties.minor);
  std::string text("this program carries no code for device ");
  text.append(std::to_string(device))
      .append(" (")
      .append(properties.name)
      .append("), of compute capability ");
  text.append(major).append(".").append(minor).append(": compile it with nvcc -arch=sm_").append(major);
  text.append(minor).append(", or add ").append(major).append(minor).append(" to CMAKE_CUDA_ARCHITECTURES");
  throw cuda::Error(cudaErrorNoKernelImageForDevice, text);
}

/// Whether arithmetic on the current device keeps subnormal numbers. Waits for the kernel that tells, on a
/// stream of its own.
inline bool keeps_subnormals() {
  const detail::OwnStream stream;
  const detail::DeviceMemory memory(sizeof(float), stream.get());
  auto* result = reinterpret_cast<float*>(memory.data());
  float smallest = (std::numeric_limits<float>::min)();
  void* parameters[] = {&smallest, &result};
  detail::throw_if_failed(cudaLaunchKernel(reinterpret_cast<const void*>(&halve<float>), dim3(1), dim3(1),
                                           parameters, 0, stream.get()),
                          "cudaLaunchKernel");
  float half = 0;
  detail::throw_if_failed(cudaMemcpyAsync(&half, result, sizeof half, cudaMemcpyDeviceToHost, stream.get()),
                          "cudaMemcpyAsync");
  stream.synchronize();
  return half > 0;
}

RING_ATTENTION_CUDA_INLINE int require_program_for(int device) {
  // By device; 0: not asked yet. Threads that ask at once all find the same.
  static constinit std::array<std::atomic<std::int16_t>, 1024> versions{};
  std::atomic<std::int16_t>& known = versions[static_cast<std::size_t>(device) % versions.size()];
  if (const int version = known.load(std::memory_order_relaxed); version != 0) return version;
  const detail::RelaxedCapture relaxed;
  const detail::DeviceScope scope(device);
  const int version = code_version();
  if (version == 0) throw_no_code(device);
  if (!keeps_subnormals()) {
    throw cuda::Error(
        cudaErrorNotSupported,
        "this program was compiled with nvcc --use_fast_math or -ftz=true: ring_attention needs "
        "subnormal numbers and exact division, build without them");
  }
  known.store(static_cast<std::int16_t>(version), std::memory_order_relaxed);
  return version;
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE

inline namespace RING_ATTENTION_NAMESPACE {
namespace cuda {
inline namespace RING_ATTENTION_CODE_NAMESPACE {

RING_ATTENTION_CUDA_INLINE std::vector<std::string> available_kernels(int device) {
  const ring_attention::detail::RelaxedCapture relaxed;
  const ring_attention::detail::DeviceScope scope(device);
  const int version = engine::code_version();
  if (version == 0) return {};
  if (version < 80) return {"generic"};
  return {"sm80", "generic"};
}

RING_ATTENTION_CUDA_INLINE void set_kernel(std::string_view name) {
  using ring_attention::detail::DeviceKernel;
  int chosen = -1;
  if (name == "generic") {
    chosen = static_cast<int>(DeviceKernel::generic);
  } else if (name == "sm80") {
    chosen = static_cast<int>(DeviceKernel::sm80);
  } else if (!name.empty()) {
    ring_attention::detail::throw_invalid("kernel", "\"" + std::string(name) + "\"",
                                          "must be empty, or a kernel for GPUs: sm80, generic");
  }
  ring_attention::detail::chosen_device_kernel.store(chosen, std::memory_order_relaxed);
}

}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace cuda
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
