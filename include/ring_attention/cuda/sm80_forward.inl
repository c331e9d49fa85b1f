// The forward kernel for tensor cores that multiply by mma.sync, of compute capability 8.0 and newer: half,
// bfloat16, and float. For nvcc.
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
#include <ring_attention/cuda/sm80_products.inl>
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
  using Extents = Tiles<Stored, Dim>;
  using Rows = SwizzledRows<Stored, Dim>;
  using Copy = TileCopy<Stored, Dim>;
  using State = WarpState<Stored, Dim>;
  static constexpr std::uint32_t query_bytes = Extents::query_rows * Rows::row_bytes;
  static constexpr std::uint32_t tile_bytes = Extents::keys * Rows::row_bytes;
  static constexpr std::uint32_t memory_bytes = query_bytes + 4 * tile_bytes;

  const ForwardArguments<Stored>& call;
  BlockState<Stored, Dim>& block;
  std::uint32_t memory;  // the queries, then two tiles of keys, then two of values

  __device__ std::uint32_t warp_queries() const {
    return memory + static_cast<std::uint32_t>(warp_number() * Extents::warp_rows) * Rows::row_bytes;
  }
  __device__ std::uint32_t key_tile(int number) const {
    return memory + query_bytes + static_cast<std::uint32_t>(number % 2) * tile_bytes;
  }
  __device__ std::uint32_t value_tile(int number) const { return key_tile(number) + 2 * tile_bytes; }

  __device__ void begin_queries() const {
    const Copy copy(call.head_dim);
    const detail::WorkItem& item = block.item;
    copy.template begin<Extents::query_rows>(
        memory + Rows::place(copy.row, copy.column), call.q.row(item.batch_item, item.rows.first, item.head),
        item.rows.stride * call.q.token_stride, item.rows.count);
  }

  __device__ void begin_tile(int number) const {
    const Copy copy(call.head_dim);
    const KeyTile tile = block.tile(number);
    const std::int32_t kv_head = block.item.head / call.group;
    const auto begin = [&](const DeviceRows<const Stored>& tensor, std::uint32_t place) {
      copy.template begin<Extents::keys>(place, tensor.row(block.item.batch_item, tile.rows.first, kv_head),
                                         tile.rows.stride * tensor.token_stride, tile.rows.count);
    };
    begin(call.k, key_tile(number) + Rows::place(copy.row, copy.column));
    begin(call.v, value_tile(number) + Rows::place_of_value(copy.row, copy.column));
  }

  /// Multiplies the warp's queries by -1 or 0.
  __device__ void multiply_queries(float sign) const {
    constexpr std::uint32_t signs = sizeof(Stored) == 2 ? 0x80008000U : 0x80000000U;
    const std::uint32_t kept = sign < 0 ? ~0U : 0U, flipped = sign < 0 ? signs : 0U;
    for (int i = lane_number(); i < Extents::warp_rows * Rows::chunks; i += warp_size) {
      const std::uint32_t at = warp_queries() + static_cast<std::uint32_t>(i) * 16;
      const uint4 chunk = ptx::load_shared(at);
      ptx::store_shared(at, (chunk.x & kept) ^ flipped);
      ptx::store_shared(at + 4, (chunk.y & kept) ^ flipped);
      ptx::store_shared(at + 8, (chunk.z & kept) ^ flipped);
      ptx::store_shared(at + 12, (chunk.w & kept) ^ flipped);
    }
    __syncwarp();
  }

  /// The row at a position of the item; of positions past the end, the last row.
  __device__ std::int32_t row_at(int position) const {
    const detail::RowSpan& rows = block.item.rows;
    return rows[position < rows.count ? position : rows.count - 1];
  }

  static constexpr std::uint32_t half_bytes = tile_bytes / 2;

  template <class Meanwhile>
  __device__ void score(Scores<Stored, Dim>& scores, int number, int half, const Meanwhile& meanwhile) const {
    sm80::score<Stored, Dim>(scores, warp_queries(),
                             key_tile(number) + static_cast<std::uint32_t>(half) * half_bytes, meanwhile);
  }
  template <class Meanwhile>
  __device__ void add_values(State& state, const Scores<Stored, Dim>& weights, int number, int half,
                             const Meanwhile& meanwhile) const {
    const std::uint32_t values = value_tile(number) + static_cast<std::uint32_t>(half) * half_bytes;
    if constexpr (sizeof(Stored) == 2) {
      sm80::add_values<Stored, Dim>(state.output, weights, values, meanwhile);
    } else {
      sm80::add_float_values<Dim>(state.output, weights, values, meanwhile);
    }
  }

  /// Meets a tile whose keys all count in all rows, all of which have references. Of its halves one is weighed
  /// while tensor cores compute for the other. Returns how many halves it met: references may be too low.
  __device__ int meet_halves(State& state, int number) const {
    Scores<Stored, Dim> first, second;
    float sums[State::lane_rows];
    const auto weigh_while = [&](Scores<Stored, Dim>& scores) {
      return [&](int step, int steps) { state.weigh_part(scores, sums, call.scale, step, steps); };
    };
    score(first, number, 0, Nothing());
    if (!state.fits_before(first, call.scale)) return 0;
    score(second, number, 1, weigh_while(first));
    if (!State::fits_after(sums)) return 0;
    state.add(sums);
    const bool fits = state.fits_before(second, call.scale);
    add_values(state, first, number, 0, weigh_while(second));
    if (!fits || !State::fits_after(sums)) return 1;
    state.add(sums);
    add_values(state, second, number, 1, Nothing());
    return 2;
  }

  __device__ void meet_tile(State& state, int number, bool& all_have_references) const {
    const int first_row = warp_number() * Extents::warp_rows;
    const KeyTile tile = block.tile(number);
    const std::int32_t last_row = row_at(first_row + Extents::warp_rows - 1);
    const bool all_count = tile.rows.count == Extents::keys &&
                           (!call.causal || tile.rows.last() <= row_at(first_row));
    int half = all_count && all_have_references ? meet_halves(state, number) : 0;
    for (; half < 2; ++half) {
      const int begin = half * Extents::half_keys;
      if (begin >= tile.rows.count || (call.causal && tile.rows[begin] > last_row)) return;
      Scores<Stored, Dim> scores;
      score(scores, number, half, Nothing());
      int visible[State::lane_rows];
#pragma unroll
      for (int i = 0; i < State::lane_rows; ++i) {
        const std::int32_t row = row_at(first_row + 8 * i + lane_number() / 4);
        visible[i] = (call.causal ? tile.rows.count_below(row + 1) : tile.rows.count) - begin;
      }
      all_have_references = state.weigh_exactly(scores, call.scale, visible);
      add_values(state, scores, number, half, Nothing());
    }
  }

  /// Meets all keys; the first two tiles are known.
  __device__ void meet_keys(State& state, float sign) const {
    if (block.tile(0).rows.count == 0) return;
    begin_queries();
    begin_tile(0);
    ptx::commit_copies();
    bool all_have_references = false;
    for (int number = 0; block.tile(number).rows.count > 0; ++number) {
      // Now the next tile may replace the last one, which no warp reads any more.
      ptx::wait_for_copies<0>();
      __syncthreads();
      if (block.tile(number + 1).rows.count > 0) begin_tile(number + 1);
      ptx::commit_copies();
      if (ptx::thread_number() == number % warps * warp_size) block.find_tile(number + 2);
      if (number == 0 && !(sign > 0)) multiply_queries(sign);
      if (warp_number() * Extents::warp_rows < block.item.rows.count) meet_tile(state, number, all_have_references);
    }
  }
};

/// Makes the scale of a call positive; returns 1, -1 or 0, which queries are to be multiplied by instead.
template <class Stored>
float take_sign(ForwardArguments<Stored>& call) {
  const float scale = call.scale;
  if (scale == 0) call.scale = 1;
  if (scale < 0) call.scale = -scale;
  return scale > 0 ? 1.0F : scale < 0 ? -1.0F : 0.0F;
}

/// `sign`: as take_sign returned it for `call`.
template <class Stored, int Dim>
__global__ void __launch_bounds__(threads, Tiles<Stored, Dim>::blocks_per_multiprocessor)
    forward(const __grid_constant__ ForwardArguments<Stored> call, std::int64_t first_item, bool partial,
            float sign) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  __shared__ BlockState<Stored, Dim> block;
  if (ptx::thread_number() == 0) {
    const detail::WorkItem& item = call.work.items[first_item + blockIdx.x];
    block.begin(item, {item, call.work.spans, call.lists, call.block_size, call.causal});
  }
  __syncthreads();
  const detail::WorkItem& item = block.item;
  if (!partial && block.tile(0).rows.count == 0 && item.state_begin == item.state_end && item.zero_keys == 0) {
    write_empty<Stored, Dim>(call, item, ptx::thread_number());
    return;
  }
  const ItemKernel<Stored, Dim> kernel{call, block, ptx::shared_address(ptx::launch_memory())};
  WarpState<Stored, Dim> state;
  kernel.meet_keys(state, sign);
  state.finish();
  const Epilogue<Stored, Dim> epilogue{call, item, warp_number() * Tiles<Stored, Dim>::warp_rows,
                                       lane_number()};
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
