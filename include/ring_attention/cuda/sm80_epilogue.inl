// How an item ends: its states are left for others, or merged with what others left and written. For nvcc.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <numbers>
#include <ring_attention/cuda/generic_forward.inl>
#include <ring_attention/cuda/ptx.inl>
#include <ring_attention/cuda/sm80_softmax.inl>
#include <ring_attention/cuda/sm80_tiles.inl>
#include <ring_attention/cuda/work_list.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {
namespace sm80 {

template <class Stored, int Dim>
struct Epilogue {
  using State = WarpState<Stored, Dim>;
  static constexpr int lane_rows = State::lane_rows;
  static constexpr int warp_rows = Tiles<Stored, Dim>::warp_rows;

  const ForwardArguments<Stored>& call;
  const detail::WorkItem& item;
  int first_row;  ///< of the warp, among the item's
  int lane;

  /// The position of a lane's row i among the item's, which may have fewer rows.
  __device__ int row_of(int i) const { return first_row + 8 * i + lane / 4; }

  __device__ void leave(const State& state) const {
#pragma unroll
    for (int i = 0; i < lane_rows; ++i) {
      if (row_of(i) >= item.rows.count) continue;
      const std::int64_t slot = item.carry + row_of(i);
      float* const output = call.carried.output + slot * call.head_dim + 2 * (lane % 4);
#pragma unroll
      for (int j = 0; j < Dim / 8; ++j) {
        if (8 * j + 2 * (lane % 4) >= call.head_dim) continue;
        const float* const pair = &state.output[i / 2][j][2 * (i % 2)];
        *reinterpret_cast<float2*>(output + 8 * j) = make_float2(pair[0], pair[1]);
      }
      if (lane % 4 == 0) {
        call.carried.maximum[slot] = state.reference[i];
        call.carried.sum[slot] = state.sum[i];
      }
    }
  }

  __device__ void meet_zero_keys(State& state) const {
    if (item.zero_keys == 0) return;
#pragma unroll
    for (int i = 0; i < lane_rows; ++i) {
      const float factor = state.raise(i, 0);
      state.sum[i] += static_cast<float>(item.zero_keys) * factor;
    }
  }

  __device__ void take_states(State& state) const {
    for (std::int32_t left = item.state_begin; left < item.state_end; ++left) {
      const detail::StateSpan span = call.work.states[left];
#pragma unroll
      for (int i = 0; i < lane_rows; ++i) {
        if (row_of(i) >= item.rows.count) continue;
        const std::int32_t position = span.rows.find(item.rows[row_of(i)]);
        if (position < 0) continue;
        const std::int64_t slot = item.carry + span.slot + position;
        const float maximum = call.carried.maximum[slot];
        if (maximum == -generic::infinity<float>()) continue;
        const float factor = state.raise(i, maximum);
        state.sum[i] += call.carried.sum[slot] * factor;
        const float* const output = call.carried.output + slot * call.head_dim + 2 * (lane % 4);
#pragma unroll
        for (int j = 0; j < Dim / 8; ++j) {
          if (8 * j + 2 * (lane % 4) >= call.head_dim) continue;
          const float2 pair = *reinterpret_cast<const float2*>(output + 8 * j);
          state.output[i / 2][j][2 * (i % 2)] += pair.x * factor;
          state.output[i / 2][j][2 * (i % 2) + 1] += pair.y * factor;
        }
      }
    }
  }

  /// `rows`: shared memory for the warp's rows, through which those of 16-bit numbers get into the order of
  /// the tensor.
  __device__ void write(const State& state, std::uint32_t rows) const {
    using Rows = SwizzledRows<Stored, Dim>;
#pragma unroll
    for (int i = 0; i < lane_rows; ++i) {
      const bool has_keys = state.sum[i] != 0;
      const float factor = has_keys ? 1 / state.sum[i] : 0.0F;
#pragma unroll
      for (int j = 0; j < Dim / 8; ++j) {
        const float* const pair = &state.output[i / 2][j][2 * (i % 2)];
        if constexpr (sizeof(Stored) == 2) {
          ptx::store_shared(
              rows + Rows::place(8 * i + lane / 4, j) + static_cast<std::uint32_t>(lane % 4) * 4,
              ptx::pack<Stored>(pair[0] * factor, pair[1] * factor));
        } else if (const int column = 8 * j + 2 * (lane % 4);
                   column < call.head_dim && row_of(i) < item.rows.count) {
          Stored* const out = call.out.row(item.batch_item, item.rows[row_of(i)], item.head);
          *reinterpret_cast<float2*>(out + column) = make_float2(pair[0] * factor, pair[1] * factor);
        }
      }
      if (call.lse.data == nullptr || lane % 4 != 0 || row_of(i) >= item.rows.count) continue;
      *call.lse.row(item.batch_item, item.head, item.rows[row_of(i)]) =
          has_keys ? std::numbers::ln2_v<float> * (state.reference[i] + log2f(state.sum[i]))
                   : -generic::infinity<float>();
    }
    if constexpr (sizeof(Stored) == 2) write_rows(rows);
  }

 private:
  __device__ void write_rows(std::uint32_t rows) const {
    using Rows = SwizzledRows<Stored, Dim>;
    __syncwarp();
    const int row_chunks = call.head_dim / 8;
    for (int i = lane; i < warp_rows * Rows::chunks; i += warp_size) {
      const int row = i / Rows::chunks, chunk = i % Rows::chunks;
      if (chunk >= row_chunks || first_row + row >= item.rows.count) continue;
      Stored* const out = call.out.row(item.batch_item, item.rows[first_row + row], item.head);
      *reinterpret_cast<uint4*>(out + 8 * chunk) = ptx::load_shared(rows + Rows::place(row, chunk));
    }
  }
};

/// Writes the rows of an item without keys.
template <class Stored, int Dim>
__device__ void write_empty(const ForwardArguments<Stored>& call, const detail::WorkItem& item, int thread) {
  using Rows = SwizzledRows<Stored, Dim>;
  const int row_chunks = call.head_dim / Rows::chunk_numbers;
  for (int i = thread / Rows::period; i < item.rows.count; i += threads / Rows::period) {
    Stored* const out = call.out.row(item.batch_item, item.rows[i], item.head);
    for (int chunk = thread % Rows::period; chunk < row_chunks; chunk += Rows::period) {
      *reinterpret_cast<uint4*>(out + chunk * Rows::chunk_numbers) = uint4{0, 0, 0, 0};
    }
  }
  if (call.lse.data == nullptr) return;
  for (int i = thread; i < item.rows.count; i += threads) {
    *call.lse.row(item.batch_item, item.head, item.rows[i]) = -generic::infinity<float>();
  }
}

}  // namespace sm80
}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
