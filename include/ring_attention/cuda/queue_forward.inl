// How a forward call is queued: definitions of forward_call.hpp. For nvcc.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <Eigen/Core>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <ring_attention/cuda/device_kernel.hpp>
#include <ring_attention/cuda/device_plan.hpp>
#include <ring_attention/cuda/finite_check.inl>
#include <ring_attention/cuda/forward_call.hpp>
#include <ring_attention/cuda/generic_forward.inl>
#include <ring_attention/cuda/sm80_queue.inl>
#include <ring_attention/cuda_views.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/version.hpp>
#include <type_traits>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// The type that kernels know a scalar by; its bits are the same.
template <class Scalar>
struct StoredScalar {
  using Type = Scalar;
};
template <>
struct StoredScalar<Eigen::half> {
  using Type = __half;
};
template <>
struct StoredScalar<Eigen::bfloat16> {
  using Type = __nv_bfloat16;
};
template <class Scalar>
using stored_t = typename StoredScalar<Scalar>::Type;

template <class Stored, class T>
DeviceRows<Stored> device_rows(const cuda::View<T>& view) {
  static_assert(sizeof(Stored) == sizeof(T));
  // Strides that lead nowhere may be anything, and must not decide whether rows count as aligned.
  const auto stride = [&](std::size_t axis) {
    return view.shape()[axis] > 1 ? view.strides()[axis] : std::int64_t{0};
  };
  return {reinterpret_cast<Stored*>(view.data()), stride(0), stride(1), stride(2)};
}

template <class Scalar>
detail::DeviceKernel forward_kernel(int device, std::int64_t head_dim) {
  using detail::DeviceKernel;
  [[maybe_unused]] const int version = require_program_for(device);
  if constexpr (!std::is_same_v<Scalar, double>) {
    const int chosen = detail::chosen_device_kernel.load(std::memory_order_relaxed);
    if (chosen != static_cast<int>(DeviceKernel::generic) &&
        head_dim <= detail::sm80_largest_head_dim(sizeof(Scalar)) && version >= 80) {
      return sizeof(Scalar) == 2 ? DeviceKernel::sm80 : DeviceKernel::sm80_float;
    }
  }
  return DeviceKernel::generic;
}

template <class Scalar>
void queue_forward(const detail::DevicePlan& plan, const CallShape& shape,
                   const DeviceForwardTensors<Scalar>& tensors, std::byte* workspace,
                   detail::FiniteCheck* finite_check, cudaStream_t stream) {
  using Stored = stored_t<Scalar>;
  using T = accumulator_t<Scalar>;
  ForwardArguments<Stored> call{};
  call.q = device_rows<const Stored>(tensors.q);
  call.k = device_rows<const Stored>(tensors.k);
  call.v = device_rows<const Stored>(tensors.v);
  call.out = device_rows<Stored>(tensors.out);
  call.lse = device_rows<T>(tensors.lse);
  call.work = plan.work();
  call.lists = plan.lists();
  const auto rows = static_cast<std::size_t>(plan.carried_rows());
  auto* const states = reinterpret_cast<T*>(workspace);
  if (rows > 0) call.carried = {states, states + rows, states + 2 * rows};
  call.scale = static_cast<T>(plan.scale() * std::numbers::log2e);
  call.block_size = plan.block_size();
  call.group = static_cast<std::int32_t>(shape.heads / shape.kv_heads);
  call.head_dim = static_cast<std::int32_t>(shape.head_dim);
  call.causal = plan.causal();
  if (finite_check != nullptr) {
    queue_finite_check<Stored>({call.q, call.k, call.v}, shape, plan.lengths(), finite_check, stream);
  }
  if constexpr (!std::is_same_v<Scalar, double>) {
    if (plan.kernel() != detail::DeviceKernel::generic && sm80::serves(call)) {
      queue_sm80_forward(call, stream);
      return;
    }
  }
  queue_generic_forward(call, stream);
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
