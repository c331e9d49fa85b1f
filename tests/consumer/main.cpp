// Attends over values that are all 1, so that every output must be 1, and shares the cache with the other
// unit.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ring_attention/ring_attention.hpp>

#ifdef MPI_VERSION
#error "the core must be free of MPI"
#endif

namespace ra = ring_attention;

ra::PatternCache& cache_of_second_unit();
ra::Tensor<float> attend_in_second_unit(const ra::AttentionConfig& config, const ra::Tensor<float>& x);
#ifdef RING_ATTENTION_COMPILED
bool every_class_attends();
#endif

int main() {
  ra::AttentionConfig config = ra::ring_preset();
  config.segment_lengths = {16, 32};
  config.dilation_rates = {1, 2};
  config.ring_size = 3;
  ra::Tensor<float> ones(1, 50, 2, 8);
  std::fill_n(ones.data(), ones.size(), 1.0f);

  const ra::Tensor<float> here = ra::RingDilatedAttentionV2<float>(config).forward(ones, ones, ones);
  const ra::Tensor<float> there = attend_in_second_unit(config, ones);
  for (std::int64_t i = 0; i < here.size(); ++i) {
    if (!(std::abs(here.data()[i] - 1.0f) < 1e-5f) || !(here.data()[i] == there.data()[i])) {
      std::fprintf(stderr, "output[%ld] = %g here, %g in the second unit\n", static_cast<long>(i),
                   static_cast<double>(here.data()[i]), static_cast<double>(there.data()[i]));
      return 1;
    }
  }
  if (&ra::get_global_pattern_cache() != &cache_of_second_unit()) {
    std::fputs("the two units have caches of their own\n", stderr);
    return 1;
  }
  const ra::PatternCacheStats stats = ra::get_global_pattern_cache().stats();
  if (stats.entries == 0 || stats.hits == 0) {
    std::fputs("the second unit did not find the first one's patterns\n", stderr);
    return 1;
  }
#ifdef RING_ATTENTION_COMPILED
  if (!every_class_attends()) {
    std::fputs("a class of the compiled library computes something else\n", stderr);
    return 1;
  }
#endif
  return 0;
}
