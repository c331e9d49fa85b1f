// Register-only loops of bfloat16 products with float sums: AVX512-BF16's dot product of pairs, and the tile
// multiply of AMX. Call one only where the processor has it.
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdint>

#include "fma_probe.hpp"

namespace benchmarks::probe {

inline constexpr double pair_product_operations = 16 * 2 * 2.0 * chains;

[[gnu::noinline, gnu::target("avx512f,avx512bf16")]] inline void bfloat16_pair_products(std::int64_t rounds) {
  const Coefficients<float> coefficients;
  const __m512 value = _mm512_set1_ps(coefficients.term);
  const __m512bh a = _mm512_cvtne2ps_pbh(value, value), b = a;
  __m512 sums[chains];
  for (__m512& sum : sums) sum = _mm512_set1_ps(coefficients.start);
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (__m512& sum : sums) sum = _mm512_dpbf16_ps(sum, a, b);
  }
  volatile float sink = 0;
  for (const __m512& sum : sums) sink = sink + sum[0];
}

/// Four products of 16 x 32 by 32 x 16.
inline constexpr double tile_product_operations = 4 * 2.0 * 16 * 32 * 16;

[[gnu::noinline, gnu::target("amx-tile,amx-bf16")]] inline void tile_products(std::int64_t rounds) {
  struct alignas(64) {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};  // of tiles 0 to 7; the rest must be 0
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } shape;
  alignas(64) std::uint16_t numbers[16 * 32];
  for (std::uint16_t& number : numbers) number = 0x3c24;  // 0.01
  // g++ does not see that the instructions below read all of these.
  asm volatile("" : : "r"(&shape), "r"(numbers) : "memory");
  _tile_loadconfig(&shape);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, numbers, 64);
  _tile_loadd(5, numbers, 64);
  _tile_loadd(6, numbers, 64);
  _tile_loadd(7, numbers, 64);
  for (std::int64_t round = 0; round < rounds; ++round) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

}  // namespace benchmarks::probe

#endif
