// Includes and instantiates the same as main.cpp: a definition that is not inline fails to link.
#include <ring_attention/ring_attention.hpp>

namespace ra = ring_attention;

ra::PatternCache& cache_of_second_unit();
ra::Tensor<float> attend_in_second_unit(const ra::AttentionConfig& config, const ra::Tensor<float>& x);

ra::PatternCache& cache_of_second_unit() { return ra::get_global_pattern_cache(); }

ra::Tensor<float> attend_in_second_unit(const ra::AttentionConfig& config, const ra::Tensor<float>& x) {
  return ra::RingDilatedAttentionV2<float>(config).forward(x, x, x);
}
