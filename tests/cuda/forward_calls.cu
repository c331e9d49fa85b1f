// Forward calls of every class and scalar on a GPU, compiled.
#include <ring_attention/cuda.hpp>
#include <string>

namespace ra = ring_attention;

template <class Attention, class Scalar>
void call(ra::cuda::Context& context, const Attention& attention, ra::cuda::View<Scalar> q,
          ra::cuda::View<ra::accumulator_t<Scalar>> lse) {
  context.set_workspace(nullptr, context.workspace_bytes(attention, {1, 8, 2, 2, 4}));
  attention.forward(context, q, q, q, q);
  attention.forward(context, q, q, q, q, lse, ra::ForwardOptions{.lengths = {3}});
}

template <class Scalar>
void call_all(ra::cuda::Context& context, const ra::AttentionConfig& config) {
  const ra::cuda::View<Scalar> q;
  const ra::cuda::View<ra::accumulator_t<Scalar>> lse;
  call(context, ra::RingDilatedAttentionV2<Scalar>(config), q, lse);
  call(context, ra::RingDilatedAttentionProduction<Scalar>(config), q, lse);
  call(context, ra::BlockSparseRingDilatedAttention<Scalar>(config), q, lse);
}

void call_every_class(cudaStream_t stream, const ra::AttentionConfig& config) {
  ra::cuda::Context context(stream);
  for (const std::string& name : ra::cuda::available_kernels(context.device())) ra::cuda::set_kernel(name);
  call_all<float>(context, config);
  call_all<double>(context, config);
  call_all<Eigen::half>(context, config);
  call_all<Eigen::bfloat16>(context, config);
  context.check();
}
