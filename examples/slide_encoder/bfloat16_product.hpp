// Products of bfloat16 matrices with sums in float, by the instruction that multiplies pairs.
//
// Eigen multiplies bfloat16 by converting scalars, several times slower than float; rounded to bfloat16 and kept
// as float it would take float's time. Pairs take a third to a half of that, which is most of what an encoder in
// bfloat16 gains.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BF16__)
#define SLIDE_ENCODER_BFLOAT16_PAIRS 1
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "matrix.hpp"

namespace slide_encoder {

/// A weight matrix [out, in], `in` even, in panels of as many outputs as sums fit into registers. In a panel the
/// pair (in, in + 1) of all its outputs is contiguous.
class Bfloat16Panels {
 public:
  template <class Weights>
  explicit Bfloat16Panels(const Weights& weights)  // float or bfloat16
      : outputs_(weights.rows()), inputs_(weights.cols()) {
    const std::int64_t panels = (outputs_ + panel_width - 1) / panel_width;
    panels_.resize(static_cast<std::size_t>(panels * panel_width * inputs_));
    for (std::int64_t out = 0; out < outputs_; ++out) {
      Eigen::bfloat16* const panel = panels_.data() + out / panel_width * panel_width * inputs_;
      for (std::int64_t in = 0; in < inputs_; ++in) {
        panel[(in / 2 * panel_width + out % panel_width) * 2 + in % 2] =
            static_cast<Eigen::bfloat16>(weights(out, in));
      }
    }
  }

  /// y = x * weights^T + bias
  void multiply(const ConstRows<Eigen::bfloat16>& x, const float* bias, Rows<float> y) const {
    for (std::int64_t first = 0; first < outputs_; first += panel_width) {
      std::array<float, panel_width> start{};
      std::copy_n(bias + first, std::min(panel_width, outputs_ - first), start.data());
      std::int64_t row = 0;
      for (; row + row_group <= x.rows(); row += row_group) multiply<row_group>(x, row, first, start.data(), y);
      for (; row < x.rows(); ++row) multiply<1>(x, row, first, start.data(), y);
    }
  }

 private:
  static constexpr std::int64_t lanes = 16;
  static constexpr int vectors = 3;
  static constexpr std::int64_t panel_width = vectors * lanes;
  static constexpr int row_group = 8;  // 8 * 3 sums, 3 weights and a pair of inputs: 28 of 32 registers

  template <int rows>
  void multiply(const ConstRows<Eigen::bfloat16>& x, std::int64_t row, std::int64_t first, const float* start,
                Rows<float>& y) const {
    const Eigen::bfloat16* const input = x.data() + row * x.outerStride();
    const Eigen::bfloat16* weights = panels_.data() + first * inputs_;
    __m512 sums[rows][vectors];
    for (auto& of_row : sums) {
      for (int v = 0; v < vectors; ++v) of_row[v] = _mm512_loadu_ps(start + v * lanes);
    }
    for (std::int64_t in = 0; in < inputs_; in += 2, weights += 2 * panel_width) {
      __m512i columns[vectors];
      for (int v = 0; v < vectors; ++v) columns[v] = _mm512_loadu_si512(weights + v * 2 * lanes);
      for (int r = 0; r < rows; ++r) {
        std::int32_t pair;
        std::memcpy(&pair, input + r * x.outerStride() + in, sizeof pair);
        const __m512i pairs = _mm512_set1_epi32(pair);
        for (int v = 0; v < vectors; ++v) {
          sums[r][v] = _mm512_dpbf16_ps(sums[r][v], (__m512bh)pairs, (__m512bh)columns[v]);
        }
      }
    }
    for (int r = 0; r < rows; ++r) {
      float* const target = y.data() + (row + r) * y.outerStride() + first;
      for (int v = 0; v < vectors; ++v) {
        const std::int64_t left = std::clamp<std::int64_t>(outputs_ - first - v * lanes, 0, lanes);
        _mm512_mask_storeu_ps(target + v * lanes, static_cast<__mmask16>((1U << left) - 1), sums[r][v]);
      }
    }
  }

  std::int64_t outputs_;
  std::int64_t inputs_;
  std::vector<Eigen::bfloat16> panels_;
};

}  // namespace slide_encoder
#endif
