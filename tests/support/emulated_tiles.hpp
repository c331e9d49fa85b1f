// The tile registers of AMX in plain C++, as Intel's manual describes them (palette 1), for processors
// without them. What would fault there is remembered as a fault, and so is what a program can hardly have
// meant.
#pragma once

#include <atomic>
#include <cfloat>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ring_attention/kernel/tile_registers.hpp>

namespace test {

class EmulatedTiles {
 public:
  using Shapes = ring_attention::engine::TileShapes;

  /// What went wrong first, on any thread, since the last call; null: nothing.
  static const char* take_fault() { return first_fault().exchange(nullptr); }
  /// Whether this thread's tiles are in use.
  static bool configured() { return state().configured; }
  /// Products of two tiles on any thread so far.
  static std::uint64_t multiplies() { return multiply_count().load(); }

  static void configure(const Shapes& shapes) {
    State& s = state();
    unsigned char bytes[64];
    std::memcpy(bytes, &shapes, sizeof bytes);
    s = State{};
    if (reinterpret_cast<std::uintptr_t>(&shapes) % 64 != 0) fault("the shapes cross a cache line");
    if (bytes[0] != 1) return fault("palette is not 1");
    for (int i = 2; i < 16; ++i) {
      if (bytes[i] != 0) return fault("a reserved byte is not 0");
    }
    for (int tile = 0; tile < 16; ++tile) {
      const int row_bytes = bytes[16 + 2 * tile] + 256 * bytes[17 + 2 * tile];
      const int rows = bytes[48 + tile];
      if (tile >= tiles && (rows != 0 || row_bytes != 0)) return fault("a tile past the eighth has a shape");
      if (rows > max_rows || row_bytes > max_row_bytes) return fault("a tile is too large");
      if ((rows == 0) != (row_bytes == 0))
        return fault("a tile has rows without bytes or bytes without rows");
      if (tile >= tiles) continue;
      s.tile[tile].rows = rows;
      s.tile[tile].row_bytes = row_bytes;
    }
    if (bytes[1] != 0) fault("loads begin at a row that is not the first");
    s.configured = true;
  }

  static void release() {
    if (!state().configured) fault("tiles are released that nobody configured");
    state() = State{};
  }

  template <int Number>
  static void zero() {
    if (Tile* t = usable(Number)) std::memset(t->data, 0, sizeof t->data);
  }

  template <int Number>
  static void load(const void* from, std::int64_t stride) {
    Tile* t = usable(Number);
    if (t == nullptr) return;
    std::memset(t->data, 0, sizeof t->data);
    for (int row = 0; row < t->rows; ++row) {
      std::memcpy(t->data[row], static_cast<const char*>(from) + row * stride,
                  static_cast<std::size_t>(t->row_bytes));
    }
  }

  template <int Number>
  static void store(void* to, std::int64_t stride) {
    const Tile* t = usable(Number);
    if (t == nullptr) return;
    for (int row = 0; row < t->rows; ++row) {
      std::memcpy(static_cast<char*>(to) + row * stride, t->data[row],
                  static_cast<std::size_t>(t->row_bytes));
    }
  }

  /// TDPBF16PS: for each element one chain of the pairs' first numbers and one of their second ones; the two,
  /// and then C, are added. Denormal numbers count and come out as 0.
  template <int C, int A, int B>
  static void multiply() {
    static_assert(C != A && C != B && A != B, "TDPBF16PS wants three different tiles");
    Tile* const c = usable(C);
    const Tile* const a = usable(A);
    const Tile* const b = usable(B);
    if (c == nullptr || a == nullptr || b == nullptr) return;
    if (c->row_bytes % 4 != 0 || a->row_bytes % 4 != 0 || b->row_bytes % 4 != 0 || c->rows != a->rows ||
        c->row_bytes != b->row_bytes || a->row_bytes / 4 != b->rows) {
      return fault("the shapes of three tiles do not fit");
    }
    ++multiply_count();
    multiply(*c, *a, *b);
  }

 private:
  static constexpr int tiles = 8, max_rows = 16, max_row_bytes = 64;

  struct Tile {
    int rows = 0, row_bytes = 0;
    unsigned char data[max_rows][max_row_bytes] = {};
  };
  struct State {
    bool configured = false;
    Tile tile[tiles];
  };

  static State& state() {
    thread_local State s;
    return s;
  }
  static std::atomic<const char*>& first_fault() {
    static std::atomic<const char*> text{nullptr};
    return text;
  }
  static std::atomic<std::uint64_t>& multiply_count() {
    static std::atomic<std::uint64_t> count{0};
    return count;
  }
  static void fault(const char* text) {
    const char* none = nullptr;
    first_fault().compare_exchange_strong(none, text);
  }

  static Tile* usable(int number) {
    if (!state().configured) return fault("tiles are used that nobody configured"), nullptr;
    Tile& t = state().tile[number];
    if (t.rows == 0) return fault("a tile without a shape is used"), nullptr;
    return &t;
  }

  typedef float Row __attribute__((vector_size(max_row_bytes)));
  typedef std::uint32_t Bits __attribute__((vector_size(max_row_bytes)));

  // Products of two bfloat16 are exact in float, so that it does not matter whether the compiler fuses
  // multiply and add. Runs where the rest of the kernel does, on AVX-512.
  [[gnu::target("avx512f")]] static void multiply(Tile& c, const Tile& a, const Tile& b) {
    const int pairs = a.row_bytes / 4;
    const auto flush = [](Row & x) __attribute__((always_inline)) {
      const Row size = (Row)((Bits)x & 0x7FFFFFFFU);
      x = size < FLT_MIN ? (Row)((Bits)x & 0x80000000U) : x;
    };
    const auto widen_row = [&](const Tile& t, int row, Row& first, Row& second)
        __attribute__((always_inline)) {
      Bits both;
      std::memcpy(&both, t.data[row], sizeof both);
      first = (Row)(both << 16);
      second = (Row)(both & 0xFFFF0000U);
      flush(first);
      flush(second);
    };
    Row right[max_rows][2];
    for (int k = 0; k < pairs; ++k) widen_row(b, k, right[k][0], right[k][1]);
    for (int m = 0; m < c.rows; ++m) {
      Row left[2], sums[2] = {}, sum;
      widen_row(a, m, left[0], left[1]);
      for (int k = 0; k < pairs; ++k) {
        for (int i = 0; i < 2; ++i) {
          sums[i] = left[i][k] * right[k][i] + sums[i];
          flush(sums[i]);
        }
      }
      std::memcpy(&sum, c.data[m], sizeof sum);
      flush(sum);
      sums[0] = sums[0] + sums[1];
      flush(sums[0]);
      sum = sum + sums[0];
      flush(sum);
      std::memcpy(c.data[m], &sum, static_cast<std::size_t>(c.row_bytes));
    }
  }
};

}  // namespace test
