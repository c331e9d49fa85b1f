// Small calls that the checks of processes make.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <ring_attention/attention/ring_dilated_attention_production.hpp>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <ring_attention/attention/true_ring_dilated_attention.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/tensor.hpp>
#include <thread>

namespace test {

namespace ra = ring_attention;

inline ra::AttentionConfig small_config(std::int64_t ring_size) {
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {16, 48};
  config.dilation_rates = {1, 2};
  config.ring_size = ring_size;
  config.causal = true;
  return config;
}

inline ra::Tensor<float> numbers(const ra::Shape& shape, std::uint32_t seed) {
  ra::Tensor<float> tensor(shape);
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    seed = seed * 1664525u + 1013904223u;
    tensor.data()[i] = static_cast<float>(seed >> 8) / 16777216.0f - 0.5f;
  }
  return tensor;
}

struct Inputs {
  explicit Inputs(const ra::Shape& shape)
      : q(numbers(shape, 1)), k(numbers(shape, 2)), v(numbers(shape, 3)) {}
  ra::Tensor<float> q, k, v;
};

inline bool same_bits(const ra::Tensor<float>& a, const ra::Tensor<float>& b) {
  return a.shape() == b.shape() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(float)) == 0;
}

template <class Condition>
bool comes_true(const Condition& condition, std::chrono::seconds longest = std::chrono::seconds(10)) {
  const auto deadline = std::chrono::steady_clock::now() + longest;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

/// Whether a loop really runs on so many threads: its bodies wait for one another.
inline bool threads_meet(int threads) {
  std::atomic<int> inside{0}, alone{0};
  ra::detail::parallel_for(threads, threads, [&](std::int64_t, int) {
    ++inside;
    if (!comes_true([&] { return inside == threads; })) ++alone;
  });
  return alone == 0;
}

}  // namespace test
