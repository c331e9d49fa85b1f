// Products of bfloat16 matrices with sums in float, by the instruction that multiplies pairs.
//
// Eigen multiplies bfloat16 by converting scalars, several times slower than float; rounded to bfloat16 and
// kept as float it would take float's time. Pairs take less than a third of that, which is most of what an
// encoder in bfloat16 gains.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BF16__)
#define SLIDE_ENCODER_BFLOAT16_PAIRS 1
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "matrix.hpp"

namespace slide_encoder {

/// A weight matrix [out, in], `in` even, in panels of as many outputs as sums fit into registers. In a panel
/// the pair (in, in + 1) of all its outputs is contiguous.
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
      for (; row + row_group <= x.rows(); row += row_group)
        multiply_rows<row_group>(x, row, first, start.data(), y);
      for (; row < x.rows(); ++row) multiply_rows<1>(x, row, first, start.data(), y);
    }
  }

 private:
  static constexpr std::int64_t lanes = 16;
  static constexpr int vectors = 3;
  static constexpr std::int64_t panel_width = vectors * lanes;
  static constexpr int row_group = 8;  // 8 * 3 sums, 3 weights and a pair of inputs: 28 of 32 registers

  template <int rows>
  void multiply_rows(const ConstRows<Eigen::bfloat16>& x, std::int64_t row, std::int64_t first,
                     const float* start, Rows<float>& y) const {
    multiply_panel<rows>(x.data() + row * x.outerStride(), x.outerStride(), panels_.data() + first * inputs_,
                         inputs_, start, y.data() + row * y.outerStride() + first, y.outerStride(),
                         outputs_ - first);
  }

  /// `rows` rows of x times a panel. Not inlined: sums stay in registers only where the compiler sees nothing
  /// else.
  template <int rows>
  [[gnu::noinline]] static void multiply_panel(const Eigen::bfloat16* x, std::int64_t x_stride,
                                               const Eigen::bfloat16* panel, std::int64_t inputs,
                                               const float* start, float* y, std::int64_t y_stride,
                                               std::int64_t columns) {
    __m512 sums[rows][vectors];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) sums[r][v] = _mm512_loadu_ps(start + v * lanes);
    }
    for (std::int64_t in = 0; in < inputs; in += 2, x += 2, panel += 2 * panel_width) {
      __m512i weights[vectors];
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) {
        weights[v] = _mm512_loadu_si512(panel + v * 2 * lanes);
        asm("" : "+v"(weights[v]));  // or g++ 12 loads it again for every row
      }
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        std::int32_t pair;
        std::memcpy(&pair, x + r * x_stride, sizeof pair);
        const __m512i pairs = _mm512_set1_epi32(pair);
#pragma GCC unroll 3
        for (int v = 0; v < vectors; ++v) {
          sums[r][v] = _mm512_dpbf16_ps(sums[r][v], (__m512bh)pairs, (__m512bh)weights[v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) {
        const std::int64_t left = std::clamp<std::int64_t>(columns - v * lanes, 0, lanes);
        _mm512_mask_storeu_ps(y + r * y_stride + v * lanes, static_cast<__mmask16>((1U << left) - 1),
                              sums[r][v]);
      }
    }
  }

  std::int64_t outputs_;
  std::int64_t inputs_;
  std::vector<Eigen::bfloat16> panels_;
};

}  // namespace slide_encoder
#endif
