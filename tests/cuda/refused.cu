// A program that a GPU must refuse at its first call. Prints the error.
#include <cstdio>
#include <ring_attention/cuda.hpp>

namespace ra = ring_attention;

int main() {
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {4};
  config.dilation_rates = {1};
  float* memory = nullptr;
  if (cudaMalloc(&memory, 4 * 64 * sizeof(float)) != cudaSuccess) return 2;
  const auto view = [&](int i) { return ra::cuda::View<float>(memory + 64 * i, {1, 4, 1, 16}); };
  try {
    ra::cuda::Context context;
    ra::RingDilatedAttentionV2<float>(config).forward(context, view(0), view(1), view(2), view(3));
    context.check();
    std::printf("it ran\n");
  } catch (const ra::cuda::Error& error) {
    std::printf("%s\n", error.what());
  }
}
