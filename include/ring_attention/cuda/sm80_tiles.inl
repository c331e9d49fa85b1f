// Tiles of rows in shared memory: how they lie there, how strided rows get there, how warps read them.
// For nvcc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <ring_attention/cuda/device_kernel.hpp>
#include <ring_attention/cuda/generic_forward.inl>
#include <ring_attention/cuda/ptx.inl>
#include <ring_attention/cuda/work_list.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {
namespace sm80 {

inline constexpr int warp_size = 32;
inline constexpr int warps = 4;
inline constexpr int threads = warps * warp_size;
inline constexpr int matrix_rows = 16;  // of the first operand of mma
inline constexpr unsigned all_lanes = 0xffffffffU;

__device__ inline int lane_number() { return ptx::thread_number() % warp_size; }
__device__ inline int warp_number() { return ptx::thread_number() / warp_size; }

/// What a block computes at a time where the head dimension is at most Dim, a multiple of 16.
template <class Stored, int Dim>
struct Tiles {
  static constexpr int query_rows = detail::sm80_query_rows(Dim, sizeof(Stored));
  static constexpr int keys = detail::sm80_key_rows(Dim, sizeof(Stored));
  static constexpr int warp_rows = query_rows / warps;
  static constexpr int row_tiles = warp_rows / matrix_rows;
  static constexpr int blocks_per_multiprocessor = 2;
};

/// Rows of Dim numbers, in chunks of 16 bytes. Within each `period` chunks of a row they are permuted, so
/// that what a warp reads together lies in different banks.
template <class Stored, int Dim>
struct SwizzledRows {
  static constexpr int chunk_numbers = 16 / static_cast<int>(sizeof(Stored));
  static constexpr int chunks = Dim / chunk_numbers;
  static constexpr std::uint32_t row_bytes = sizeof(Stored) * Dim;
  static constexpr int period = chunks % 8 == 0 ? 8 : chunks % 4 == 0 ? 4 : 2;

  /// For ldmatrix, which reads a chunk of 8 rows. What is exclusive-ored to the numbers of chunks is equal
  /// for rows whose distance is a multiple of 8.
  __device__ static std::uint32_t place(int row, int chunk) {
    return permuted(row, chunk ^ (row / (8 / period) % period));
  }
  /// For values in float, of which a warp reads the numbers 8 i to 8 i + 7 in 4 even rows, or in 4 odd ones.
  __device__ static std::uint32_t place_of_value(int row, int chunk) {
    if constexpr (sizeof(Stored) == 2) return place(row, chunk);
    static_assert(sizeof(Stored) == 2 || period == 8);
    return permuted(row, chunk ^ (row / 2 % 4 * 2));
  }
  /// The place of chunk `chunk` + c of row `rows` + r, where `from` is the place of chunk c of row r; `chunk`
  /// is even, c at most 1, and `rows` a multiple of 8.
  __device__ static std::uint32_t further(std::uint32_t from, int rows, int chunk) {
    return (from ^ static_cast<std::uint32_t>(chunk % period * 16)) +
           (static_cast<std::uint32_t>(chunk / period * period * 16) +
            static_cast<std::uint32_t>(rows) * row_bytes);
  }

 private:
  __device__ static std::uint32_t permuted(int row, int chunk) {
    return static_cast<std::uint32_t>(row) * row_bytes + static_cast<std::uint32_t>(chunk) * 16;
  }
};

/// What one thread of a block copies of every tile.
template <class Stored, int Dim>
struct TileCopy {
  using Rows = SwizzledRows<Stored, Dim>;
  static constexpr int lanes_of_row = Rows::period;
  static constexpr int rows_at_once = threads / lanes_of_row;

  int row, column;  // of the first chunk
  int chunks;       // with numbers of the tensor; the others are zeros

  __device__ explicit TileCopy(int head_dim)
      : row(ptx::thread_number() / lanes_of_row),
        column(ptx::thread_number() % lanes_of_row),
        chunks(head_dim / Rows::chunk_numbers) {}

  /// Begins to copy rows of a tensor whose row 0 is at `first`. Those after the last one, up to `Count`,
  /// become zeros, and nothing is read of them. `place`: of the first chunk in the tile.
  template <int Count>
  __device__ void begin(std::uint32_t place, const Stored* first, std::int64_t row_stride,
                        const detail::RowSpan& rows) const {
    const Stored* from = first + (rows[row] * row_stride + column * Rows::chunk_numbers);
    const std::int64_t further = rows_at_once * rows.stride * row_stride;
#pragma unroll
    for (int done = 0; done < Count; done += rows_at_once) {
#pragma unroll
      for (int chunk = 0; chunk < Rows::chunks; chunk += lanes_of_row) {
        const bool read = done + row < rows.count && column + chunk < chunks;
        ptx::copy_16_bytes(place + (static_cast<std::uint32_t>(done) * Rows::row_bytes +
                                    static_cast<std::uint32_t>(chunk) * 16),
                           from + chunk * Rows::chunk_numbers, read ? 16 : 0);
      }
      from += further;
    }
  }
};

/// Where a tile of keys lies among the runs of an item's keys.
struct KeyPlace {
  int run;
  std::int32_t begin;  ///< in the run
};

/// What the threads of a block share beside tiles. Kept here, it takes no registers while keys are met.
template <class Stored, int Dim>
struct BlockState {
  static constexpr int keys_of_tile = Tiles<Stored, Dim>::keys;
  static constexpr int known_runs = 4;
  struct alignas(16) Run {
    detail::RowSpan rows;
  };

  detail::WorkItem item;
  const Stored *keys, *values;  ///< row 0 of its head
  Run runs[known_runs];  ///< of keys, by number: the present one and those that follow; without rows: none
  alignas(alignof(detail::ItemKeys)) std::byte walk[sizeof(detail::ItemKeys)];

  /// For one thread.
  __device__ void begin(const detail::WorkItem& of, const ForwardArguments<Stored>& call) {
    item = of;
    keys = call.k.row(of.batch_item, 0, of.head / call.group);
    values = call.v.row(of.batch_item, 0, of.head / call.group);
    new (static_cast<void*>(walk))
        detail::ItemKeys(of, call.work.spans, call.lists, call.block_size, call.causal);
    find_run(0);
  }
  /// For one thread: finds the run of that number, after all before it.
  __device__ void find_run(int number) {
    detail::ItemKeys& found = *reinterpret_cast<detail::ItemKeys*>(walk);
    runs[number % known_runs].rows = found.next() ? *found : detail::RowSpan{0, 1, 0};
  }

  /// The rows of a tile, none of which crosses from one run to the next; none at the end.
  __device__ detail::RowSpan tile(const KeyPlace& place) const {
    const detail::RowSpan& run = runs[place.run % known_runs].rows;
    const std::int32_t left = run.count - place.begin;
    return {run[place.begin], run.stride, left < keys_of_tile ? left : keys_of_tile};
  }
  __device__ KeyPlace after(const KeyPlace& place) const {
    const std::int32_t next = place.begin + keys_of_tile;
    if (next < runs[place.run % known_runs].rows.count) return {place.run, next};
    return {place.run + 1, 0};
  }
};

}  // namespace sm80
}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
