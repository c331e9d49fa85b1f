// One small call on the GPU, as every unit compiles it for itself.
#pragma once

#include <ring_attention/cuda.hpp>
#include <string>

namespace test {

/// "it ran", or the error.
static std::string first_call() {
  namespace ra = ring_attention;
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {4};
  config.dilation_rates = {1};
  float* memory = nullptr;
  if (cudaMalloc(&memory, 4 * 64 * sizeof(float)) != cudaSuccess) return "no memory";
  const auto view = [&](int i) { return ra::cuda::View<float>(memory + 64 * i, {1, 4, 1, 16}); };
  try {
    ra::cuda::Context context;
    ra::RingDilatedAttentionV2<float>(config).forward(context, view(0), view(1), view(2), view(3));
    context.check();
    return "it ran";
  } catch (const ra::cuda::Error& error) {
    return error.what();
  }
}

}  // namespace test
