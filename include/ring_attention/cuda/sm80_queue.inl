// How calls are queued that the kernel `sm80` computes. For nvcc.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <ring_attention/cuda/device_memory.hpp>
#include <ring_attention/cuda/error.hpp>
#include <ring_attention/cuda/generic_forward.inl>
#include <ring_attention/cuda/sm80_forward.inl>
#include <ring_attention/cuda/sm80_tiles.inl>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {
namespace sm80 {

template <class Stored, int Dim>
void queue_forward(const ForwardArguments<Stored>& call, cudaStream_t stream) {
  constexpr int bytes = static_cast<int>(ItemKernel<Stored, Dim>::memory_bytes);
  const void* const kernel = reinterpret_cast<const void*>(&forward<Stored, Dim>);
  const detail::RelaxedCapture relaxed;  // the first call of a process loads the kernel
  detail::throw_if_failed(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                          "cudaFuncSetAttribute");
  const auto queue = [&](ForwardArguments<Stored> arguments, std::int64_t first, std::int64_t count,
                         bool partial) {
    if (count == 0) return;
    float sign = take_sign(arguments);
    void* parameters[] = {&arguments, &first, &partial, &sign};
    detail::throw_if_failed(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(count)), dim3(threads),
                                             parameters, bytes, stream),
                            "cudaLaunchKernel");
  };
  queue(call, 0, call.work.partial_count, true);
  queue(call, call.work.partial_count, call.work.item_count - call.work.partial_count, false);
}

template <class Stored>
bool is_aligned(const DeviceRows<Stored>& rows) {
  constexpr std::uintptr_t chunk = 16;
  const auto bytes = [](std::int64_t stride) { return static_cast<std::uintptr_t>(stride) * sizeof(Stored); };
  return reinterpret_cast<std::uintptr_t>(rows.data) % chunk == 0 && bytes(rows.batch_stride) % chunk == 0 &&
         bytes(rows.token_stride) % chunk == 0 && bytes(rows.head_stride) % chunk == 0;
}

/// Whether the kernel can read and write tensors: it moves 16 bytes at a time.
template <class Stored>
bool serves(const ForwardArguments<Stored>& call) {
  constexpr int bytes = sizeof(Stored);
  return call.head_dim * bytes % 16 == 0 && call.head_dim <= detail::sm80_largest_head_dim(bytes) &&
         is_aligned(call.q) && is_aligned(call.k) && is_aligned(call.v) && is_aligned(call.out);
}

}  // namespace sm80

/// Queues the items of a call that sm80::serves, the final ones after the partial ones. Throws cuda::Error.
template <class Stored>
void queue_sm80_forward(const ForwardArguments<Stored>& call, cudaStream_t stream) {
  sm80::with_code_for<Stored>(call.head_dim,
                              [&](auto dim) { sm80::queue_forward<Stored, dim()>(call, stream); });
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
