// A forward call on a GPU: from checked views to queued kernels. For nvcc.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <ring_attention/cuda/context.hpp>
#include <ring_attention/cuda/device_memory.hpp>
#include <ring_attention/cuda/device_plan.hpp>
#include <ring_attention/cuda/generic_forward.inl>
#include <ring_attention/cuda_views.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/version.hpp>

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

/// Device tensors of one call. lse may be a view without data: then it is not wanted.
template <class Scalar>
struct DeviceForwardTensors {
  cuda::View<const Scalar> q, k, v;
  cuda::View<Scalar> out;
  cuda::View<accumulator_t<Scalar>> lse;
};

template <class Stored, class T>
DeviceRows<Stored> device_rows(const cuda::View<T>& view) {
  static_assert(sizeof(Stored) == sizeof(T));
  const auto [batch, token, head] = view.strides();
  return {reinterpret_cast<Stored*>(view.data()), batch, token, head};
}

/// Bytes of the state of one row that items leave for others.
template <class Scalar>
std::size_t carried_row_bytes(const CallShape& shape) {
  return static_cast<std::size_t>(shape.head_dim + 2) * sizeof(accumulator_t<Scalar>);
}

/// Queues a call whose tensors have been checked. `make_plan()` computes the PlannedCall of the request if
/// the context does not have it.
template <class Scalar, class MakePlan>
void queue_forward(detail::ContextState& context, const detail::PlanRequest& request,
                   const DeviceForwardTensors<Scalar>& tensors, const MakePlan& make_plan) {
  using Stored = stored_t<Scalar>;
  using T = accumulator_t<Scalar>;
  const CallShape& shape = request.shape;
  if (shape.head_dim > generic::largest_head_dim) {
    detail::throw_invalid("q head dimension", shape.head_dim, "must be at most 256 on a GPU");
  }
  const detail::DeviceScope device(context.device());
  const bool capturing = context.capturing();
  const detail::DevicePlan& plan = context.plan(request, capturing, make_plan);
  const auto rows = static_cast<std::size_t>(plan.carried_rows());
  auto* const states = reinterpret_cast<T*>(context.workspace(rows * request.carried_row_bytes, capturing));

  ForwardArguments<Stored> call{};
  call.q = device_rows<const Stored>(tensors.q);
  call.k = device_rows<const Stored>(tensors.k);
  call.v = device_rows<const Stored>(tensors.v);
  call.out = device_rows<Stored>(tensors.out);
  call.lse = device_rows<T>(tensors.lse);
  call.work = plan.work();
  call.lists = plan.lists();
  if (rows > 0) call.carried = {states, states + rows, states + 2 * rows};
  call.scale = static_cast<T>(plan.scale() * std::numbers::log2e);
  call.block_size = plan.block_size();
  call.group = static_cast<std::int32_t>(shape.heads / shape.kv_heads);
  call.head_dim = static_cast<std::int32_t>(shape.head_dim);
  call.causal = plan.causal();
  queue_generic_forward(call, context.stream());
  context.end_call(capturing);
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
