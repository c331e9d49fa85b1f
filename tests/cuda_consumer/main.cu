#include <cmath>
#include <cstdint>
#include <cstdio>
#include <ring_attention/cuda.hpp>
#include <vector>

#include "units.hpp"

namespace ra = ring_attention;
using Scalar = Eigen::bfloat16;

namespace {

constexpr std::int64_t tokens = 128, heads = 2, dim = 16;
constexpr ra::Shape shape{1, tokens, heads, dim};

Scalar* on_device(const std::vector<Scalar>& values) {
  void* memory = nullptr;
  const std::size_t bytes = values.size() * sizeof(Scalar);
  if (cudaMalloc(&memory, bytes) != cudaSuccess) return nullptr;
  cudaMemcpy(memory, values.data(), bytes, cudaMemcpyHostToDevice);
  return static_cast<Scalar*>(memory);
}

/// Token t's values are all t; with equal keys attention is their mean.
bool close_to(const std::vector<Scalar>& out, std::int64_t token, double expected) {
  const double found = static_cast<float>(out[static_cast<std::size_t>(token * heads * dim)]);
  if (std::abs(found - expected) <= 0.01 * std::abs(expected)) return true;
  std::printf("token %d: %g, expected %g\n", static_cast<int>(token), found, expected);
  return false;
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: there is no GPU\n");
    return 0;
  }
  std::vector<Scalar> zeros(tokens * heads * dim, Scalar(0)), numbers = zeros, out = zeros;
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t i = 0; i < heads * dim; ++i)
      numbers[t * heads * dim + i] = Scalar(static_cast<float>(t));
  }
  Scalar* const keys = on_device(zeros);
  Scalar* const values = on_device(numbers);
  Scalar* const result = on_device(zeros);
  ra::cuda::Context context;
  const Call call{{keys, shape}, {keys, shape}, {values, shape}, {result, shape}, {}};

  ra::AttentionConfig config = ra::ring_preset();
  config.segment_lengths = {64};
  config.dilation_rates = {2};
  ra::RingDilatedAttentionV2<Scalar>(config).forward(context, call.q, call.k, call.v, call.out, call.options);
  cudaMemcpyAsync(out.data(), result, out.size() * sizeof(Scalar), cudaMemcpyDeviceToHost, context.stream());
  context.check();
  bool good = close_to(out, 5, 31) && close_to(out, 70, 64 + 31);  // even tokens of each segment

  attend_locally(context, second_half(call));
  cudaMemcpyAsync(out.data(), result, out.size() * sizeof(Scalar), cudaMemcpyDeviceToHost, context.stream());
  context.check();
  // The first half is as it was; of the second, token 70 is in the first block of 16 and sees two of them.
  good = close_to(out, 5, 31) && close_to(out, 70, 64 + 15.5) && good;
  std::printf(good ? "both units agree with the means of their tokens\n" : "FAILED\n");
  return good ? 0 : 1;
}
