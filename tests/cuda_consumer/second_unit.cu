#include <ring_attention/cuda.hpp>

#include "units.hpp"

namespace ra = ring_attention;

void attend_locally(ra::cuda::Context& context, const Call& call) {
  const ra::BlockSparseRingDilatedAttention<Eigen::bfloat16> attention(
      ra::AttentionConfig{},
      ra::BlockSparseConfig{.pattern = ra::BlockPattern::local_window, .block_size = 16});
  attention.forward(context, call.q, call.k, call.v, call.out, call.options);
}
