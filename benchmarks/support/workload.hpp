// The attention problem that is timed: configuration, inputs, its floating-point operations, and a digest of
// outputs.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <ring_attention/ring_attention.hpp>
#include <vector>

#include "clock.hpp"
#include "policies.hpp"

namespace benchmarks {

struct Workload {
  std::int64_t heads = 8;
  std::int64_t head_dim = 64;

  static ra::AttentionConfig config(std::int64_t ring_size) {
    ra::AttentionConfig config = ra::ring_preset();
    config.segment_lengths = {2048, 4096, 8192};
    config.dilation_rates = {1, 2, 4};
    config.ring_size = ring_size;
    return config;
  }

  /// 4 * d * query-key pairs, summed over heads; a multiply and an add count as two.
  double flops(std::int64_t n) const {
    const ra::AttentionConfig branches = config(1);
    const auto count = static_cast<std::int64_t>(branches.segment_lengths.size());
    double pairs = 0.0;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t w = branches.segment_lengths[static_cast<std::size_t>(i)];
      const std::int64_t r = branches.dilation_rates[static_cast<std::size_t>(i)];
      const std::int64_t branch_heads = heads / count + (i >= count - heads % count ? 1 : 0);
      for (std::int64_t begin = 0; begin < n; begin += w) {
        const std::int64_t length = std::min(w, n - begin);
        pairs += static_cast<double>(branch_heads) * static_cast<double>(length) *
                 static_cast<double>(ra::count_dilated_rows(length, r, i % r));
      }
    }
    return 4.0 * static_cast<double>(head_dim) * pairs;
  }
};

/// Inputs and an output for sequences of up to `tokens`; shorter ones use the beginning of the same memory.
class Buffers {
 public:
  Buffers(const Workload& workload, std::int64_t tokens)
      : q_(1, tokens, workload.heads, workload.head_dim), k_(q_.shape()), v_(q_.shape()), out_(q_.shape()) {
    std::uint32_t state = 20231;
    for (ra::Tensor<float>* tensor : {&q_, &k_, &v_}) {
      for (std::int64_t i = 0; i < tensor->size(); ++i) {
        state = state * 1664525U + 1013904223U;
        tensor->data()[i] = static_cast<float>(state >> 8) / 8388608.0F - 1.0F;  // uniform in [-1, 1)
      }
    }
  }

  ra::TensorView<const float> q(std::int64_t n) const { return {q_.data(), shape(n)}; }
  ra::TensorView<const float> k(std::int64_t n) const { return {k_.data(), shape(n)}; }
  ra::TensorView<const float> v(std::int64_t n) const { return {v_.data(), shape(n)}; }
  ra::TensorView<float> out(std::int64_t n) { return {out_.data(), shape(n)}; }

 private:
  ra::Shape shape(std::int64_t n) const { return {1, n, q_.shape()[2], q_.shape()[3]}; }

  ra::Tensor<float> q_, k_, v_, out_;
};

template <class Policy>
using Attention = ra::RingDilatedAttentionV2<float, Policy>;

template <class Policy>
void forward(const Attention<Policy>& attention, Buffers& buffers, std::int64_t n) {
  attention.forward(buffers.q(n), buffers.k(n), buffers.v(n), buffers.out(n));
}

/// Patterns that one forward call asks for, in order, as the attention class itself tells. One head dimension
/// is enough: patterns do not depend on it.
inline std::vector<ra::PatternKey> keys_of_forward(std::int64_t n, std::int64_t heads) {
  const Workload small{.heads = heads, .head_dim = 1};
  Buffers buffers(small, n);
  const record_keys recorder;
  const Attention<record_keys> attention(Workload::config(1), recorder);
  forward(attention, buffers, n);
  return recorder.keys();
}

/// 64-bit digest of the bits of a gap-free tensor.
inline std::uint64_t digest(const ra::TensorView<float>& view) {
  std::uint64_t state = 0xcbf29ce484222325ULL;
  for (std::int64_t i = 0; i < view.size(); ++i) {
    state = std::rotl((state ^ std::bit_cast<std::uint32_t>(view.data()[i])) * 0x9e3779b97f4a7c15ULL, 23);
  }
  return state;
}

}  // namespace benchmarks
