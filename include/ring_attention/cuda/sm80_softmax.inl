// The online softmax of a warp's query rows, in registers. For nvcc.
//
// A row's state is a reference m, in base-2 logarithms, the sum l of 2^(s - m) over the scores s met so far,
// and the output O, the sum of 2^(s - m) times the values. m need not be the largest score: what is measured
// from it must only fit its type. So it is raised to the largest score, and l and O scaled down by 2^(old m -
// new m), where a row has no reference yet or a score is too far above it; a running maximum would cost a
// comparison and a multiplication more for each score and output.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <ring_attention/cuda/generic_forward.inl>
#include <ring_attention/cuda/ptx.inl>
#include <ring_attention/cuda/sm80_tiles.inl>
#include <ring_attention/version.hpp>
#include <type_traits>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {
namespace sm80 {

/// Scores of a warp's rows and one tile of keys, then their weights; as mma leaves them.
template <class Stored, int Dim>
using Scores = float[Tiles<Stored, Dim>::row_tiles][Tiles<Stored, Dim>::keys / 8][4];

__device__ inline bool in_no_lane(bool holds) { return __any_sync(all_lanes, holds) == 0; }

/// The 4 lanes that share a row.
__device__ inline float largest_of_row(float x) {
  x = fmaxf(x, __shfl_xor_sync(all_lanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(all_lanes, x, 2));
}
__device__ inline float sum_of_row(float x) {
  x += __shfl_xor_sync(all_lanes, x, 1);
  return x + __shfl_xor_sync(all_lanes, x, 2);
}

/// A lane has the rows lane / 4 + 8 i of the warp's, i being the index of its state, and of their outputs the
/// columns 8 j + 2 (lane % 4) and the next.
template <class Stored, int Dim>
struct WarpState {
  using TileScores = Scores<Stored, Dim>;
  static constexpr int row_tiles = Tiles<Stored, Dim>::row_tiles;
  static constexpr int lane_rows = 2 * row_tiles;
  static constexpr int keys = Tiles<Stored, Dim>::keys;
  static constexpr bool is_half = std::is_same_v<Stored, __half>;

  float reference[lane_rows];
  float sum[lane_rows];  ///< of this lane's scores alone, until finish()
  float output[row_tiles][Dim / 8][4];

  __device__ WarpState() {
#pragma unroll
    for (int i = 0; i < lane_rows; ++i) {
      reference[i] = -generic::infinity<float>();
      sum[i] = 0;
    }
#pragma unroll
    for (auto& rows : output) {
#pragma unroll
      for (auto& columns : rows) {
#pragma unroll
        for (float& x : columns) x = 0;
      }
    }
  }

  /// What the weights of row i are multiplied by when its reference rises to `raised`.
  __device__ void scale_row(int i, float raised) {
    const float kept =
        reference[i] == -generic::infinity<float>() ? 0.0F : ptx::power_of_two(reference[i] - raised);
    reference[i] = raised;
    sum[i] *= kept;
#pragma unroll
    for (int column = 0; column < Dim / 8; ++column) {
      output[i / 2][column][2 * (i % 2)] *= kept;
      output[i / 2][column][2 * (i % 2) + 1] *= kept;
    }
  }

  /// Raises row i's reference to at least `other`; returns the factor for what is measured from that.
  __device__ float raise(int i, float other) {
    scale_row(i, fmaxf(reference[i], other));
    return ptx::power_of_two(other - reference[i]);
  }

  /// Makes weights of scores, references being raised to the largest, and adds them to the sums. Of row i the
  /// keys from visible[i] on do not count. Returns whether every row of the warp has a reference now.
  __device__ bool weigh_exactly(TileScores& scores, float scale, const int (&visible)[lane_rows]) {
    const int lane = lane_number();
    bool all_have = true;
#pragma unroll
    for (int i = 0; i < lane_rows; ++i) {
      float largest = -generic::infinity<float>();
#pragma unroll
      for (int j = 0; j < keys / 4; ++j) {
        float& score = scores[i / 2][j / 2][2 * (i % 2) + j % 2];
        if (j / 2 * 8 + 2 * (lane % 4) + j % 2 >= visible[i]) score = -generic::infinity<float>();
        largest = fmaxf(largest, score);
      }
      largest = largest_of_row(largest) * scale;
      if (largest > reference[i]) scale_row(i, largest);
      const bool has = reference[i] != -generic::infinity<float>();
      all_have = all_have && has;
      sum[i] += weigh_row(scores, i, scale, has ? reference[i] : 0.0F);
    }
    return in_no_lane(!all_have);
  }

  /// The same for rows that all have a reference and keys that all count, as long as no weight becomes too
  /// large: otherwise returns false, and the scores are lost.
  __device__ bool weigh(TileScores& scores, float scale) {
    bool far = false;
    if constexpr (is_half) {
#pragma unroll
      for (int i = 0; i < lane_rows; ++i) {
        float largest = scores[i / 2][0][2 * (i % 2)];
#pragma unroll
        for (int j = 1; j < keys / 4; ++j)
          largest = fmaxf(largest, scores[i / 2][j / 2][2 * (i % 2) + j % 2]);
        far = far || fmaf(largest, scale, -reference[i]) > largest_half_exponent;
      }
      if (!in_no_lane(far)) return false;
#pragma unroll
      for (int i = 0; i < lane_rows; ++i) sum[i] += weigh_row(scores, i, scale, reference[i]);
    } else {
      float sums[lane_rows];
#pragma unroll
      for (int i = 0; i < lane_rows; ++i) {
        sums[i] = weigh_row(scores, i, scale, reference[i]);
        // Not a number is too large, too.
        far = far || !(sums[i] <= largest_sum);
      }
      if (!in_no_lane(far)) return false;
#pragma unroll
      for (int i = 0; i < lane_rows; ++i) sum[i] += sums[i];
    }
    return true;
  }

  /// Completes the sums.
  __device__ void finish() {
#pragma unroll
    for (float& x : sum) x = sum_of_row(x);
  }

 private:
  /// Weights are rounded to the type of the values. bfloat16 and TF32 have float's exponents, but weights
  /// above 1 take from the range that outputs have before they are divided by the sum.
  static constexpr float largest_half_exponent = 8, largest_sum = 0x1p8F;

  __device__ static float weigh_row(TileScores& scores, int i, float scale, float from) {
    float total = 0;
#pragma unroll
    for (int j = 0; j < keys / 4; ++j) {
      float& score = scores[i / 2][j / 2][2 * (i % 2) + j % 2];
      score = ptx::power_of_two(fmaf(score, scale, -from));
      total += score;
    }
    return total;
  }
};

}  // namespace sm80
}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
