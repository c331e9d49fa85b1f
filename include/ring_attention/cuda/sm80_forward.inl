// The forward kernel for tensor cores that multiply by mma.sync, of compute capability 8.0 and newer: half and
// bfloat16. For nvcc.
//
// A block computes an item. Its warps share the tiles of keys and values, which arrive by cp.async one tile
// ahead, and each has 16 or 32 query rows, whose scores, states and outputs stay in registers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <ring_attention/cuda/generic_forward.inl>
#include <ring_attention/cuda/ptx.inl>
#include <ring_attention/cuda/sm80_epilogue.inl>
#include <ring_attention/cuda/sm80_softmax.inl>
#include <ring_attention/cuda/sm80_tiles.inl>
#include <ring_attention/cuda/work_list.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {
namespace sm80 {

template <class Stored, int Dim>
struct ItemKernel {
  using Extents = Tiles<Dim>;
  using Rows = SwizzledRows<Dim>;
  using State = WarpState<Stored, Dim>;
  static constexpr int row_tiles = Extents::row_tiles;
  static constexpr int keys = Extents::keys;
  static constexpr int key_steps = Dim / 16;  // of mma, along the head dimension
  static constexpr std::uint32_t query_bytes = Extents::query_rows * Rows::row_bytes;
  static constexpr std::uint32_t tile_bytes = keys * Rows::row_bytes;
  static constexpr std::uint32_t memory_bytes = query_bytes + 4 * tile_bytes;
  using QueryStep = std::uint32_t[row_tiles][4];
  static constexpr int held_steps = Extents::query_in_registers ? key_steps : 1;

  const ForwardArguments<Stored>& call;
  BlockState<Dim>& block;
  std::uint32_t memory;  // the queries, then two tiles of keys, then two of values
  int warp, lane;

  __device__ std::uint32_t warp_queries() const {
    return memory + static_cast<std::uint32_t>(warp * Extents::warp_rows) * Rows::row_bytes;
  }
  __device__ std::uint32_t key_tile(int number) const {
    return memory + query_bytes + static_cast<std::uint32_t>(number % 2) * tile_bytes;
  }
  __device__ std::uint32_t value_tile(int number) const { return key_tile(number) + 2 * tile_bytes; }

  __device__ void begin_queries(const TileCopy<Dim>& copy) const {
    const detail::WorkItem& item = block.item;
    const Stored* const first = call.q.row(item.batch_item, item.rows.first, item.head);
    copy.template begin<Extents::query_rows>(memory, first, item.rows.stride * call.q.token_stride,
                                             item.rows.count);
  }

  __device__ void begin_tile(const TileCopy<Dim>& copy, int number) const {
    const KeyTile tile = block.tile(number);
    const std::int32_t kv_head = block.item.head / call.group;
    const auto begin = [&](const DeviceRows<const Stored>& tensor, std::uint32_t to) {
      copy.template begin<keys>(to, tensor.row(block.item.batch_item, tile.rows.first, kv_head),
                                tile.rows.stride * tensor.token_stride, tile.rows.count);
    };
    begin(call.k, key_tile(number));
    begin(call.v, value_tile(number));
  }

  /// For scales that are not positive: the softmax multiplies by their magnitude.
  __device__ void turn_queries() const {
    const std::uint32_t mask = call.scale < 0 ? 0xffffffffU : 0U, sign = call.scale < 0 ? 0x80008000U : 0U;
    for (int i = lane; i < Extents::warp_rows * Rows::chunks; i += warp_size) {
      const std::uint32_t at = warp_queries() + static_cast<std::uint32_t>(i) * 16;
      const uint4 chunk = ptx::load_shared(at);
      ptx::store_shared(at, (chunk.x & mask) ^ sign);
      ptx::store_shared(at + 4, (chunk.y & mask) ^ sign);
      ptx::store_shared(at + 8, (chunk.z & mask) ^ sign);
      ptx::store_shared(at + 12, (chunk.w & mask) ^ sign);
    }
    __syncwarp();
  }

  __device__ void load_query_step(QueryStep& query, int step) const {
    const std::uint32_t from = warp_queries() + Rows::place(lane % 16, lane / 16);
#pragma unroll
    for (int i = 0; i < row_tiles; ++i) {
      ptx::load_matrices(query[i], Rows::further(from, matrix_rows * i, 2 * step));
    }
  }

  /// scores = queries . keys
  __device__ void score(Scores<Dim>& scores, const QueryStep (&held)[held_steps], int number) const {
#pragma unroll
    for (auto& rows : scores) {
#pragma unroll
      for (auto& columns : rows) {
#pragma unroll
        for (float& x : columns) x = 0;
      }
    }
    const std::uint32_t from = key_tile(number) + Rows::place(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const auto multiply = [&](const QueryStep& query, int step) {
#pragma unroll
      for (int j = 0; j < keys / 16; ++j) {
        std::uint32_t key[4];
        ptx::load_matrices(key, Rows::further(from, 16 * j, 2 * step));
#pragma unroll
        for (int i = 0; i < row_tiles; ++i) {
          ptx::multiply_add<Stored>(scores[i][2 * j], query[i], key[0], key[1]);
          ptx::multiply_add<Stored>(scores[i][2 * j + 1], query[i], key[2], key[3]);
        }
      }
    };
#pragma unroll
    for (int step = 0; step < key_steps; ++step) {
      if constexpr (Extents::query_in_registers) {
        multiply(held[step], step);
      } else {
        QueryStep query;
        load_query_step(query, step);
        multiply(query, step);
      }
    }
  }

  /// output += weights . values
  __device__ void add_values(State& state, const Scores<Dim>& weights, int number) const {
    const std::uint32_t from = value_tile(number) + Rows::place(lane % 16, lane / 16);
#pragma unroll
    for (int step = 0; step < keys / 16; ++step) {
      std::uint32_t weight[row_tiles][4];
#pragma unroll
      for (int i = 0; i < row_tiles; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float* const pair = &weights[i][2 * step + j / 2][2 * (j % 2)];
          weight[i][j] = ptx::pack<Stored>(pair[0], pair[1]);
        }
      }
#pragma unroll
      for (int j = 0; j < Dim / 16; ++j) {
        std::uint32_t value[4];
        ptx::load_transposed_matrices(value, Rows::further(from, 16 * step, 2 * j));
#pragma unroll
        for (int i = 0; i < row_tiles; ++i) {
          ptx::multiply_add<Stored>(state.output[i][2 * j], weight[i], value[0], value[1]);
          ptx::multiply_add<Stored>(state.output[i][2 * j + 1], weight[i], value[2], value[3]);
        }
      }
    }
  }

  /// The row at a position of the item; of positions past the end, the last row.
  __device__ std::int32_t row_at(int position) const {
    const detail::RowSpan& rows = block.item.rows;
    return rows[position < rows.count ? position : rows.count - 1];
  }

  __device__ void meet_tile(State& state, const QueryStep (&query)[held_steps], int number, float scale,
                            bool& all_have_references) const {
    const int first_row = warp * Extents::warp_rows;
    const KeyTile tile = block.tile(number);
    bool exact = !all_have_references || tile.rows.count < keys;
    if (call.causal) {
      if (tile.rows.first > row_at(first_row + Extents::warp_rows - 1)) return;
      exact = exact || tile.rows.last() > row_at(first_row);
    }
    Scores<Dim> scores;
    for (;;) {
      score(scores, query, number);
      if (exact) break;
      if (state.weigh(scores, scale)) break;
      exact = true;
    }
    if (exact) {
      int visible[State::lane_rows];
#pragma unroll
      for (int i = 0; i < State::lane_rows; ++i) {
        visible[i] = call.causal ? tile.rows.count_below(row_at(first_row + 8 * i + lane / 4) + 1)
                                 : tile.rows.count;
      }
      all_have_references = state.weigh_exactly(scores, scale, visible, lane);
    }
    add_values(state, scores, number);
  }

  /// Meets all keys; the first two tiles are known.
  __device__ void meet_keys(State& state, int thread) const {
    if (block.tile(0).rows.count == 0) return;
    const TileCopy<Dim> copy(thread, call.head_dim);
    begin_queries(copy);
    begin_tile(copy, 0);
    ptx::commit_copies();
    ptx::wait_for_copies<0>();
    __syncthreads();
    if (!(call.scale > 0)) turn_queries();
    QueryStep query[held_steps];
    if constexpr (Extents::query_in_registers) {
#pragma unroll
      for (int step = 0; step < key_steps; ++step) load_query_step(query[step], step);
    }
    const float scale = call.scale == 0 ? 1.0F : fabsf(call.scale);
    bool all_have_references = false;
    for (int number = 0; block.tile(number).rows.count > 0; ++number) {
      // Now the next tile may replace the last one, which no warp reads any more.
      ptx::wait_for_copies<0>();
      __syncthreads();
      if (block.tile(number + 1).rows.count > 0) begin_tile(copy, number + 1);
      ptx::commit_copies();
      if (thread == (number % warps) * warp_size) block.find_tile(number + 2);
      if (warp * Extents::warp_rows < block.item.rows.count) {
        meet_tile(state, query, number, scale, all_have_references);
      }
    }
  }
};

template <class Stored, int Dim>
__global__ void __launch_bounds__(threads, Tiles<Dim>::blocks_per_multiprocessor)
    forward(const __grid_constant__ ForwardArguments<Stored> call, std::int64_t first_item, bool partial) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  __shared__ BlockState<Dim> block;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    const detail::WorkItem& item = call.work.items[first_item + blockIdx.x];
    block.begin(item, {item, call.work.spans, call.lists, call.block_size, call.causal});
  }
  __syncthreads();
  const int warp = thread / warp_size, lane = thread % warp_size;
  const ItemKernel<Stored, Dim> kernel{call, block, ptx::shared_address(ptx::launch_memory()), warp, lane};
  WarpState<Stored, Dim> state;
  kernel.meet_keys(state, thread);
  state.finish();
  const Epilogue<Stored, Dim> epilogue{call, block.item, warp * Tiles<Dim>::warp_rows, lane};
  epilogue.meet_zero_keys(state);
  if (partial) {
    epilogue.leave(state);
  } else {
    epilogue.take_states(state);
    epilogue.write(state, kernel.warp_queries());
  }
#endif
}

}  // namespace sm80
}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
