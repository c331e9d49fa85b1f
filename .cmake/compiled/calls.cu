// Calls of every scalar, in one unit: nvcc spends most of its time on what they have in common.
#include <ring_attention/cuda/forward_call.hpp>

#define RING_ATTENTION_INSTANTIATE_CALLS(SCALAR)                                                \
  template ring_attention::detail::DeviceKernel ring_attention::engine::forward_kernel<SCALAR>( \
      int, std::int64_t);                                                                       \
  template void ring_attention::engine::queue_forward<SCALAR>(                                  \
      const ring_attention::detail::DevicePlan&, const ring_attention::CallShape&,              \
      const ring_attention::engine::DeviceForwardTensors<SCALAR>&, std::byte*,                  \
      ring_attention::detail::FiniteCheck*, cudaStream_t);

RING_ATTENTION_INSTANTIATE_CALLS(float)
RING_ATTENTION_INSTANTIATE_CALLS(double)
RING_ATTENTION_INSTANTIATE_CALLS(Eigen::half)
RING_ATTENTION_INSTANTIATE_CALLS(Eigen::bfloat16)
