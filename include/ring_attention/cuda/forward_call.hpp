// A forward call on a GPU, from checked views to queued kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <ring_attention/cuda/definitions.hpp>
#include <ring_attention/cuda/device_kernel.hpp>
#include <ring_attention/cuda/device_plan.hpp>
#include <ring_attention/cuda/finite_report.hpp>
#include <ring_attention/cuda/kernels.hpp>
#include <ring_attention/cuda_views.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Device tensors of one call. lse may be a view without data: then it is not wanted.
template <class Scalar>
struct DeviceForwardTensors {
  cuda::View<const Scalar> q, k, v;
  cuda::View<Scalar> out;
  cuda::View<accumulator_t<Scalar>> lse;
};

/// Bytes of the state of one row that items leave for others.
template <class Scalar>
std::size_t carried_row_bytes(const CallShape& shape) {
  return static_cast<std::size_t>(shape.head_dim + 2) * sizeof(accumulator_t<Scalar>);
}

/// The kernel that serves a scalar and head dimension on the current device, of that number, by what
/// cuda::set_kernel chose and the code that the program carries. Throws cuda::Error.
template <class Scalar>
detail::DeviceKernel forward_kernel(int device, std::int64_t head_dim);

/// Queues a call whose tensors have been checked. `workspace` has as many bytes as the plan says. Leaves in
/// `finite_check`, if it is not null, whether q, k and v are finite. Throws cuda::Error.
template <class Scalar>
void queue_forward(const detail::DevicePlan& plan, const CallShape& shape,
                   const DeviceForwardTensors<Scalar>& tensors, std::byte* workspace,
                   detail::FiniteCheck* finite_check, cudaStream_t stream);

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention

#if RING_ATTENTION_DEFINES_CUDA
#include <ring_attention/cuda/queue_forward.inl>
#endif
