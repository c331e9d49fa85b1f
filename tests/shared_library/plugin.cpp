#include "plugin.hpp"

#include <algorithm>
#include <cmath>
#include <ring_attention/ring_attention.hpp>

#define JOIN_NAMES(a, b) a##b
#define EXPORTED(name, function) JOIN_NAMES(name, function)

namespace ra = ring_attention;

extern "C" {

__attribute__((visibility("default"))) const void* EXPORTED(PLUGIN_NAME, _cache)() {
  return &ra::get_global_pattern_cache();
}

__attribute__((visibility("default"))) std::uint64_t EXPORTED(PLUGIN_NAME, _forward)() {
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {16, 40};
  config.dilation_rates = {1, 2};
  ra::Tensor<float> ones(1, 40, 2, 8);
  std::fill_n(ones.data(), ones.size(), 1.0f);
  const ra::Tensor<float> out = ra::RingDilatedAttentionV2<float>(config).forward(ones, ones, ones);
  const bool right = std::all_of(out.data(), out.data() + out.size(),
                                 [](float value) { return std::abs(value - 1.0f) < 1e-5f; });
  return right ? ra::get_global_pattern_cache().stats().insertions : 0;
}
}
