// The generic kernels of every scalar, compiled.
#include <ring_attention/cuda/generic_forward.inl>

namespace engine = ring_attention::engine;

template void engine::queue_generic_forward(const engine::ForwardArguments<float>&, cudaStream_t);
template void engine::queue_generic_forward(const engine::ForwardArguments<double>&, cudaStream_t);
template void engine::queue_generic_forward(const engine::ForwardArguments<__half>&, cudaStream_t);
template void engine::queue_generic_forward(const engine::ForwardArguments<__nv_bfloat16>&, cudaStream_t);
