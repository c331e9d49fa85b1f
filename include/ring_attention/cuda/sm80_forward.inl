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
#include <type_traits>

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
    copy.template begin<Extents::query_rows>(memory + Rows::place(copy.row, copy.column),
                                             call.q.row(item.batch_item, 0, item.head), call.q.token_stride,
                                             item.rows);
  }

  __device__ void begin_tile(int number, const detail::RowSpan& tile) const {
    const Copy copy(call.head_dim);
    copy.template begin<Extents::keys>(key_tile(number) + Rows::place(copy.row, copy.column), block.keys,
                                       call.k.token_stride, tile);
    copy.template begin<Extents::keys>(value_tile(number) + Rows::place_of_value(copy.row, copy.column),
                                       block.values, call.v.token_stride, tile);
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

  __device__ void meet_tile(State& state, int number, const KeyPlace& place,
                            bool& all_have_references) const {
    const int first_row = warp_number() * Extents::warp_rows;
    const detail::RowSpan tile = block.tile(place);
    bool exact = !all_have_references || tile.count < Extents::keys;
    if (call.causal) {
      if (tile.first > row_at(first_row + Extents::warp_rows - 1)) return;
      exact = exact || tile.last() > row_at(first_row);
    }
    Scores<Stored, Dim> scores;
    for (;;) {
      score<Stored, Dim>(scores, warp_queries(), key_tile(number));
      if (exact) break;
      if (state.weigh(scores, call.scale)) break;
      exact = true;
    }
    if (exact) {
      int visible[State::lane_rows];
#pragma unroll
      for (int i = 0; i < State::lane_rows; ++i) {
        visible[i] =
            call.causal ? tile.count_below(row_at(first_row + 8 * i + lane_number() / 4) + 1) : tile.count;
      }
      all_have_references = state.weigh_exactly(scores, call.scale, visible);
    }
    if constexpr (sizeof(Stored) == 2) {
      add_values<Stored, Dim>(state.output, scores, value_tile(number));
    } else {
      add_float_values<Dim>(state.output, scores, value_tile(number));
    }
  }

  /// Meets all keys; the first run is known.
  __device__ void meet_keys(State& state, float sign) const {
    KeyPlace place{0, 0};
    if (block.tile(place).count == 0) return;
    begin_queries();
    begin_tile(0, block.tile(place));
    ptx::commit_copies();
    if (ptx::thread_number() == 0) block.find_run(1);
    bool all_have_references = false, is_last = false;
    for (int number = 0; !is_last; ++number) {
      // Now the next tile may replace the last one, which no warp reads any more.
      ptx::wait_for_copies<0>();
      __syncthreads();
      const KeyPlace next = block.after(place);
      const detail::RowSpan tile = block.tile(next);
      is_last = tile.count == 0;
      if (!is_last) begin_tile(number + 1, tile);
      ptx::commit_copies();
      if (next.run != place.run && ptx::thread_number() == next.run % warps * warp_size) {
        block.find_run(next.run + 1);
      }
      if (number == 0 && !(sign > 0)) multiply_queries(sign);
      if (warp_number() * Extents::warp_rows < block.item.rows.count)
        meet_tile(state, number, place, all_have_references);
      place = next;
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
    block.begin(call.work.items[first_item + blockIdx.x], call);
  }
  __syncthreads();
  const detail::WorkItem& item = block.item;
  if (!partial && block.tile({0, 0}).count == 0 && item.state_begin == item.state_end &&
      item.zero_keys == 0) {
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

/// Calls `visit` with the least head dimension that there is code for and that holds another, at most
/// sm80_largest_head_dim, as a std::integral_constant.
template <class Stored, class Visit>
void with_code_for(std::int64_t head_dim, const Visit& visit) {
  constexpr bool wide = sizeof(Stored) == 2;  // more code, where registers leave room for it
  if (head_dim <= 32) return visit(std::integral_constant<int, 32>());
  if constexpr (wide) {
    if (head_dim <= 48) return visit(std::integral_constant<int, 48>());
  }
  if (head_dim <= 64) return visit(std::integral_constant<int, 64>());
  if constexpr (wide) {
    if (head_dim <= 80) return visit(std::integral_constant<int, 80>());
  }
  if (head_dim <= 96) return visit(std::integral_constant<int, 96>());
  if (head_dim <= 128) return visit(std::integral_constant<int, 128>());
  if constexpr (wide) visit(std::integral_constant<int, 256>());
}

}  // namespace sm80
}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
