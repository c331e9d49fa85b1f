// The two products of attention on tensor cores, of a warp's rows and one tile in shared memory. For nvcc.
//
// A float x is multiplied as a sum of two TF32 numbers, x rounded and what is left of it: of the four
// products of such sums the three larger ones leave an error of about 2^-21, and so keep float's precision.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <ring_attention/cuda/ptx.inl>
#include <ring_attention/cuda/sm80_softmax.inl>
#include <ring_attention/cuda/sm80_tiles.inl>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {
namespace sm80 {

/// A fragment of mma's first operand, or two of its second.
template <class Stored>
struct Operand {
  std::uint32_t numbers[4];

  Operand() = default;
  __device__ explicit Operand(const std::uint32_t (&loaded)[4])
      : numbers{loaded[0], loaded[1], loaded[2], loaded[3]} {}
};

template <>
struct Operand<float> {
  std::uint32_t larger[4], smaller[4];

  Operand() = default;
  __device__ explicit Operand(const std::uint32_t (&loaded)[4]) {
    constexpr std::uint32_t left_out = 13;  // of float's bits, by TF32
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      larger[i] = (loaded[i] + (1U << (left_out - 1))) & ~((1U << left_out) - 1);
      smaller[i] = __float_as_uint(__uint_as_float(loaded[i]) - __uint_as_float(larger[i]));
    }
  }
};

/// c += a * b, b being the second operand's fragment in numbers `at` and `at` + 1.
template <class Stored>
__device__ void multiply_add(float (&c)[4], const Operand<Stored>& a, const Operand<Stored>& b, int at) {
  if constexpr (sizeof(Stored) == 2) {
    ptx::multiply_add<Stored>(c, a.numbers, b.numbers[at], b.numbers[at + 1]);
  } else {
    ptx::multiply_add_tf32(c, a.smaller, b.larger[at], b.larger[at + 1]);
    ptx::multiply_add_tf32(c, a.larger, b.smaller[at], b.smaller[at + 1]);
    ptx::multiply_add_tf32(c, a.larger, b.larger[at], b.larger[at + 1]);
  }
}

template <int First, int Second>
__device__ void clear(float (&numbers)[First][Second][4]) {
#pragma unroll
  for (auto& rows : numbers) {
#pragma unroll
    for (auto& columns : rows) {
#pragma unroll
      for (float& x : columns) x = 0;
    }
  }
}

/// The same with sums of its own, which are added to c with rounding: mma truncates its sums, and over a
/// whole row that would be a bias beyond float's precision. Sums of 16-bit numbers have precision to spare.
template <class Stored>
__device__ void multiply_add_rounding(float (&c)[4], const Operand<Stored>& a, const Operand<Stored>& b,
                                      int at) {
  if constexpr (sizeof(Stored) == 2) {
    multiply_add<Stored>(c, a, b, at);
  } else {
    float sums[4] = {};
    multiply_add<Stored>(sums, a, b, at);
#pragma unroll
    for (int i = 0; i < 4; ++i) c[i] += sums[i];
  }
}

/// scores = queries . keys. A step of mma along the head dimension takes two chunks of each row.
template <class Stored, int Dim>
__device__ void score(Scores<Stored, Dim>& scores, std::uint32_t queries, std::uint32_t keys) {
  using Extents = Tiles<Stored, Dim>;
  using Rows = SwizzledRows<Stored, Dim>;
  clear(scores);
  const int lane = lane_number();
  const std::uint32_t query_from = queries + Rows::place(lane % 16, lane / 16);
  const std::uint32_t key_from = keys + Rows::place(lane % 8 + lane / 16 * 8, lane / 8 % 2);
  // All steps at once would need more registers than there are for the sums of floats.
  [[maybe_unused]] constexpr int steps_at_once = sizeof(Stored) == 2 ? Rows::chunks / 2 : 2;
#pragma unroll(steps_at_once)
  for (int chunk = 0; chunk < Rows::chunks; chunk += 2) {
    Operand<Stored> query[Extents::row_tiles];
#pragma unroll
    for (int i = 0; i < Extents::row_tiles; ++i) {
      std::uint32_t loaded[4];
      ptx::load_matrices(loaded, Rows::further(query_from, matrix_rows * i, chunk));
      query[i] = Operand<Stored>(loaded);
    }
#pragma unroll
    for (int j = 0; j < Extents::keys / 16; ++j) {
      std::uint32_t loaded[4];
      ptx::load_matrices(loaded, Rows::further(key_from, 16 * j, chunk));
      const Operand<Stored> key(loaded);
#pragma unroll
      for (int i = 0; i < Extents::row_tiles; ++i) {
        multiply_add_rounding<Stored>(scores[i][2 * j], query[i], key, 0);
        multiply_add_rounding<Stored>(scores[i][2 * j + 1], query[i], key, 2);
      }
    }
  }
}

template <class Stored, int Dim>
using Outputs = float[Tiles<Stored, Dim>::row_tiles][Dim / 8][4];

/// outputs += weights . values, of 16-bit numbers
template <class Stored, int Dim>
__device__ void add_values(Outputs<Stored, Dim>& outputs, const Scores<Stored, Dim>& weights,
                           std::uint32_t values) {
  using Extents = Tiles<Stored, Dim>;
  using Rows = SwizzledRows<Stored, Dim>;
  const int lane = lane_number();
  const std::uint32_t from = values + Rows::place(lane % 16, lane / 16);
#pragma unroll
  for (int step = 0; step < Extents::keys / 16; ++step) {
    Operand<Stored> weight[Extents::row_tiles];
#pragma unroll
    for (int i = 0; i < Extents::row_tiles; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* const pair = &weights[i][2 * step + j / 2][2 * (j % 2)];
        weight[i].numbers[j] = ptx::pack<Stored>(pair[0], pair[1]);
      }
    }
#pragma unroll
    for (int j = 0; j < Dim / 16; ++j) {
      std::uint32_t loaded[4];
      ptx::load_transposed_matrices(loaded, Rows::further(from, 16 * step, 2 * j));
      const Operand<Stored> value(loaded);
#pragma unroll
      for (int i = 0; i < Extents::row_tiles; ++i) {
        multiply_add<Stored>(outputs[i][2 * j], weight[i], value, 0);
        multiply_add<Stored>(outputs[i][2 * j + 1], weight[i], value, 2);
      }
    }
  }
}

/// The same of floats. mma truncates its sums, which is a bias where they grow over many keys: each tile has
/// sums of its own, which are added to the outputs with rounding. Which keys are the rows 0 to 3 and 4 to 7
/// of an operand is free: the even and the odd ones of eight, of which a lane has the scores already.
template <int Dim>
__device__ void add_float_values(Outputs<float, Dim>& outputs, const Scores<float, Dim>& weights,
                                 std::uint32_t values) {
  using Extents = Tiles<float, Dim>;
  using Rows = SwizzledRows<float, Dim>;
  const int lane = lane_number();
  constexpr int steps = Extents::keys / 8;
  // Numbers lane / 4 of even key 2 (lane % 4), and of the odd one after it.
  const int key = 2 * (lane % 4);
  const std::uint32_t in_chunk = static_cast<std::uint32_t>(lane / 4 % 4) * 4;
  const std::uint32_t from = values + Rows::place_of_value(key, lane / 16) + in_chunk;
  Operand<float> weight[Extents::row_tiles][steps];
#pragma unroll
  for (int i = 0; i < Extents::row_tiles; ++i) {
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      const float(&w)[4] = weights[i][step];
      const std::uint32_t loaded[4] = {__float_as_uint(w[0]), __float_as_uint(w[2]), __float_as_uint(w[1]),
                                       __float_as_uint(w[3])};
      weight[i][step] = Operand<float>(loaded);
    }
  }
#pragma unroll
  for (int j = 0; j < Dim / 16; ++j) {
    float sums[Extents::row_tiles][2][4];
    clear(sums);
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      std::uint32_t loaded[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // For each 8 columns the even key, then the odd one.
        loaded[i] =
            ptx::load_shared_word(Rows::further(from, 8 * step, 4 * j + i / 2 * 2) + i % 2 * Rows::row_bytes);
      }
      const Operand<float> value(loaded);
#pragma unroll
      for (int i = 0; i < Extents::row_tiles; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          multiply_add<float>(sums[i][half], weight[i][step], value, 2 * half);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < Extents::row_tiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int k = 0; k < 4; ++k) outputs[i][2 * j + half][k] += sums[i][half][k];
      }
    }
  }
}

}  // namespace sm80
}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
