#include <ring_attention/cuda.hpp>

#include "units.hpp"

namespace ra = ring_attention;

void attend_locally(ra::cuda::Context& context, const Call& call) {
  ra::AttentionConfig config = ra::ring_preset();
  config.segment_lengths = {64};
  config.dilation_rates = {1};
  const ra::BlockSparseRingDilatedAttention<Eigen::bfloat16> attention(
      config,
      ra::BlockSparseConfig{.pattern = ra::BlockPattern::local_window, .block_size = 16, .window = 16});
  attention.forward(context, call.q, call.k, call.v, call.out, call.options);
}
