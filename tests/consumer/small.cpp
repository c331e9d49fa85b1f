// Little to compile.
#include <cstdio>
#include <ring_attention/config.hpp>
#include <ring_attention/pattern/global_cache.hpp>

int main() {
  ring_attention::AttentionConfig config = ring_attention::longnet_preset();
  config.segment_lengths = {16};
  config.dilation_rates = {2};
  config.validate();
  const bool passed = ring_attention::get_global_pattern_cache().stats().entries == 0;
  std::puts(passed ? "passed" : "failed");
  return passed ? 0 : 1;
}
