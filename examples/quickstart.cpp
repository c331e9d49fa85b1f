#include <cstdio>
#include <ring_attention/ring_attention.hpp>

namespace ra = ring_attention;

int main() {
  ra::AttentionConfig config = ra::ring_preset();  // heads divided over three branches
  config.segment_lengths = {2048, 4096, 8192};
  config.dilation_rates = {1, 2, 4};
  config.ring_size = 4;

  ra::Tensor<float> q(1, 16384, 6, 64), k(1, 16384, 6, 64), v(1, 16384, 6, 64);  // [b, n, h, d], zeros
  for (std::int64_t token = 0; token < 16384; ++token) v(0, token, 5, 0) = static_cast<float>(token);

  const ra::RingDilatedAttentionV2<float> attention(config);  // patterns from the global cache
  const ra::AttentionResult<float> result = attention.forward_with_lse(q, k, v);

  std::printf("out(0, 100, 5, 0) = %.1f, the mean of tokens 2, 6, 10, ... 8190\n", result.out(0, 100, 5, 0));
  std::printf("lse of that row   = %.4f, the logarithm of 2048 keys\n", result.lse(0, 5, 100, 0));
  std::printf("patterns cached   = %zu\n", ra::get_global_pattern_cache().stats().entries);
}
