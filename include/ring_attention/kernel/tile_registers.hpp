// The tile registers of AMX as a policy that kernels take as a template parameter. Compilers' own functions
// for them do not serve: g++'s are macros that want the register's number as a literal, and tell nobody which
// memory an instruction reads.
#pragma once

#include <cstdint>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

inline constexpr int tile_rows = 16;
inline constexpr int tile_row_bytes = 64;
inline constexpr std::int64_t tile_bytes = tile_rows * tile_row_bytes;

/// What LDTILECFG reads: here all eight tiles at their largest, which palette 1 allows.
struct alignas(64) TileShapes {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileShapes) == 64);

#if defined(__x86_64__)

/// No call keeps tile registers: a caller of the library that uses them has to configure them again, as after
/// any other function.
struct HardwareTiles {
  [[gnu::always_inline]] static void configure(const TileShapes& shapes) {
    asm volatile("ldtilecfg\t{(%0)|[%0]}" : : "r"(&shapes), "m"(shapes));
  }
  [[gnu::always_inline]] static void release() { asm volatile("tilerelease"); }

  template <int Tile>
  [[gnu::always_inline]] static void zero() {
    asm volatile("tilezero\t%%tmm%c0" : : "i"(Tile));
  }
  /// Row i lies at `from + i * stride`.
  template <int Tile>
  [[gnu::always_inline]] static void load(const void* from, std::int64_t stride) {
    asm volatile("tileloadd\t{(%0,%1,1), %%tmm%c2|%%tmm%c2, [%0+%1*1]}"
                 :
                 : "r"(from), "r"(stride), "i"(Tile)
                 : "memory");
  }
  template <int Tile>
  [[gnu::always_inline]] static void store(void* to, std::int64_t stride) {
    asm volatile("tilestored\t{%%tmm%c2, (%0,%1,1)|[%0+%1*1], %%tmm%c2}"
                 :
                 : "r"(to), "r"(stride), "i"(Tile)
                 : "memory");
  }
  /// C[m][n] += sum over k of the pairs A[m][k] and B[k][n], multiplied and summed.
  template <int C, int A, int B>
  [[gnu::always_inline]] static void multiply() {
    asm volatile("tdpbf16ps\t{%%tmm%c2, %%tmm%c1, %%tmm%c0|%%tmm%c0, %%tmm%c1, %%tmm%c2}"
                 :
                 : "i"(C), "i"(A), "i"(B));
  }
};

#endif

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
