// Tiles of rows in shared memory: how they lie there, how strided rows get there, how warps read them.
// For nvcc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <ring_attention/cuda/device_kernel.hpp>
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

/// Rows of Dim numbers, in chunks of 16 bytes. Within each `period` chunks of a row they are permuted, so that
/// what a warp reads together lies in different banks.
template <class Stored, int Dim>
struct SwizzledRows {
  static constexpr int chunk_numbers = 16 / static_cast<int>(sizeof(Stored));
  static constexpr int chunks = Dim / chunk_numbers;
  static constexpr std::uint32_t row_bytes = sizeof(Stored) * Dim;
  static constexpr int period = chunks % 8 == 0 ? 8 : chunks % 4 == 0 ? 4 : 2;

  /// For ldmatrix, which reads a chunk of 8 rows. What is exclusive-ored to the numbers of chunks is equal for
  /// rows whose distance is a multiple of 8.
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

  int row, column;     // of the first chunk
  int chunks;          // with numbers of the tensor; the others are zeros

  __device__ explicit TileCopy(int head_dim)
      : row(ptx::thread_number() / lanes_of_row),
        column(ptx::thread_number() % lanes_of_row),
        chunks(head_dim / Rows::chunk_numbers) {}

  /// Begins to copy rows of a tensor whose row 0 is at `first`. Those after the last one, up to `Count`, become
  /// zeros, and nothing is read of them. `place`: of the first chunk in the tile.
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

/// A tile of keys; without rows: there are no more.
struct alignas(16) KeyTile {
  detail::RowSpan rows;
};

/// Cuts the keys of an item into tiles, none of which crosses from one run of rows to the next.
template <int Keys>
class KeyTileWalk {
 public:
  __device__ explicit KeyTileWalk(const detail::ItemKeys& keys) : keys_(keys) {}

  __device__ KeyTile next() {
    if (begin_ >= count_) {
      if (!keys_.next()) return {{0, 1, 0}};
      begin_ = 0;
      count_ = (*keys_).count;
    }
    const detail::RowSpan& run = *keys_;
    const std::int32_t left = count_ - begin_;
    const KeyTile tile{{run[begin_], run.stride, left < Keys ? left : Keys}};
    begin_ += Keys;
    return tile;
  }

 private:
  detail::ItemKeys keys_;
  std::int32_t begin_ = 0, count_ = 0;
};

/// What the threads of a block share beside tiles. Kept here, an item takes no registers while keys are met.
template <class Stored, int Dim>
struct BlockState {
  using Walk = KeyTileWalk<Tiles<Stored, Dim>::keys>;
  static constexpr int known_tiles = 4;

  detail::WorkItem item;
  const Stored *keys, *values;  ///< row 0 of its head
  KeyTile tiles[known_tiles];  ///< the present one and those that follow, by number
  alignas(alignof(Walk)) std::byte walk[sizeof(Walk)];

  /// For one thread.
  __device__ void begin(const detail::WorkItem& of, const detail::ItemKeys& runs) {
    item = of;
    Walk& made = *new (static_cast<void*>(walk)) Walk(runs);
    tiles[0] = made.next();
    tiles[1] = made.next();
  }
  /// For one thread: finds the tile of that number, after all before it.
  __device__ void find_tile(int number) {
    tiles[number % known_tiles] = reinterpret_cast<Walk*>(walk)->next();
  }
  __device__ const KeyTile& tile(int number) const { return tiles[number % known_tiles]; }
};

}  // namespace sm80
}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
