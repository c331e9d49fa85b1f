#include <cmath>
#include <cstdint>
#include <cstdio>
#include <ring_attention/cuda.hpp>
#include <ring_attention/ring_attention.hpp>
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

/// Calls on the CPU from a unit that nvcc compiles. With equal keys every output is the mean of all values,
/// to which each value adds its share of the output's gradient.
template <class T>
bool computes_on_the_cpu() {
  ra::AttentionConfig config = ra::ring_preset();
  config.segment_lengths = {tokens};
  config.dilation_rates = {1};
  ra::Tensor<T> q(shape), k(shape), v(shape), grad_out(shape);
  for (std::int64_t i = 0; i < v.size(); ++i) {
    v.data()[i] = T(static_cast<float>(i / (heads * dim)));
    grad_out.data()[i] = T(1.0F);
  }
  const ra::RingDilatedAttentionV2<T> attention(config);
  const auto result = attention.forward_with_lse(q, k, v);
  const auto grads = attention.backward(q, k, v, result, grad_out);
  const auto near = [](T found, double expected) {
    return std::abs(static_cast<double>(static_cast<float>(found)) - expected) <= 0.01 * expected;
  };
  bool good = true;
  for (std::int64_t i = 0; i < v.size(); ++i) {
    good = good && near(result.out.data()[i], (tokens - 1) / 2.0) && near(grads.v.data()[i], 1);
  }
  if (!good) std::printf("the CPU's results of a unit that nvcc compiled are wrong\n");
  return good;
}

}  // namespace

int main() {
  if (!computes_on_the_cpu<float>() || !computes_on_the_cpu<Scalar>()) return 1;
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
