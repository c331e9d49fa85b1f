// suites: instructions
// The emulation of tile registers itself: what it computes, and that it notices wrong use.
#include <cstdint>
#include <string>

#include "support/catch.hpp"
#include "support/emulated_tiles.hpp"

#if defined(__x86_64__)

namespace {

using Tiles = test::EmulatedTiles;

std::string fault() {
  const char* const text = Tiles::take_fault();
  return text == nullptr ? "" : text;
}

template <class Change>
std::string fault_of_shapes(const Change& change) {
  Tiles::Shapes shapes;
  change(shapes);
  Tiles::configure(shapes);
  if (Tiles::configured()) Tiles::release();
  return fault();
}

std::uint16_t bits(float number) {
  std::uint32_t wide;
  std::memcpy(&wide, &number, sizeof wide);
  return static_cast<std::uint16_t>(wide >> 16);
}

bool cannot_multiply() {
  if (__builtin_cpu_supports("avx512f")) return false;
  WARN("no AVX-512 here, which emulated products are computed with: skipped");
  return true;
}

}  // namespace

TEST_CASE("emulated tiles notice shapes that the processor refuses", "[tiles]") {
  (void)fault();
  CHECK(fault_of_shapes([](auto&) {}).empty());
  CHECK_FALSE(fault_of_shapes([](auto& s) { s.palette = 0; }).empty());
  CHECK_FALSE(fault_of_shapes([](auto& s) { s.palette = 2; }).empty());
  CHECK_FALSE(fault_of_shapes([](auto& s) { s.start_row = 1; }).empty());
  CHECK_FALSE(fault_of_shapes([](auto& s) { s.reserved[13] = 1; }).empty());
  CHECK_FALSE(fault_of_shapes([](auto& s) { s.rows[0] = 17; }).empty());
  CHECK_FALSE(fault_of_shapes([](auto& s) { s.row_bytes[7] = 68; }).empty());
  CHECK_FALSE(fault_of_shapes([](auto& s) { s.rows[3] = 0; }).empty());
  CHECK_FALSE(fault_of_shapes([](auto& s) { s.row_bytes[8] = 64; }).empty());
  CHECK_FALSE(fault_of_shapes([](auto& s) { s.rows[15] = 1; }).empty());
  CHECK_FALSE(Tiles::configured());
}

TEST_CASE("emulated tiles notice use without shapes, and shapes that do not fit", "[tiles]") {
  if (cannot_multiply()) return;
  (void)fault();
  Tiles::zero<0>();
  CHECK_FALSE(fault().empty());
  Tiles::release();
  CHECK_FALSE(fault().empty());

  Tiles::Shapes shapes;
  shapes.rows[1] = 8;        // fits neither C's rows nor, as B, A's pairs
  shapes.row_bytes[2] = 32;  // fits neither C's columns nor, as A, B's rows
  shapes.rows[3] = 0;
  shapes.row_bytes[3] = 0;
  Tiles::configure(shapes);
  CHECK(fault().empty());
  Tiles::multiply<0, 4, 5>();
  CHECK(fault().empty());
  Tiles::multiply<0, 1, 5>();
  CHECK_FALSE(fault().empty());
  Tiles::multiply<0, 4, 1>();
  CHECK_FALSE(fault().empty());
  Tiles::multiply<0, 4, 2>();
  CHECK_FALSE(fault().empty());
  Tiles::multiply<0, 2, 5>();
  CHECK_FALSE(fault().empty());
  Tiles::zero<3>();
  CHECK_FALSE(fault().empty());
  Tiles::release();
  CHECK(fault().empty());
}

TEST_CASE("emulated tiles load and store no more than their shape", "[tiles]") {
  (void)fault();
  Tiles::Shapes shapes;
  shapes.rows[0] = 3;
  shapes.row_bytes[0] = 8;
  Tiles::configure(shapes);
  std::uint32_t from[3][5], to[4][5] = {};
  for (std::uint32_t i = 0; i < 15; ++i) from[i / 5][i % 5] = i + 1;
  Tiles::load<0>(from, sizeof from[0]);
  Tiles::store<0>(to, sizeof to[0]);
  for (int row = 0; row < 4; ++row) {
    for (int i = 0; i < 5; ++i) CHECK(to[row][i] == (row < 3 && i < 2 ? from[row][i] : 0U));
  }
  Tiles::release();
  CHECK(fault().empty());
}

TEST_CASE("emulated tiles multiply pairs, count denormal numbers as 0 and sum in the documented order",
          "[tiles]") {
  if (cannot_multiply()) return;
  (void)fault();
  Tiles::configure(Tiles::Shapes{});
  std::uint16_t a[16][32] = {}, b[16][32] = {};
  float c[16][16] = {};
  // C[m][n] of row 1, column 2 meets A[1][2k + i] and B[k][2 * 2 + i].
  a[1][0] = bits(3.0F), b[0][4] = bits(5.0F);
  a[1][1] = bits(-7.0F), b[0][5] = bits(2.0F);
  a[1][31] = bits(0.5F), b[15][5] = bits(4.0F);
  // Row 2: the chain of first numbers loses 1 beside 2^24, that of second ones keeps it.
  a[2][0] = bits(16777216.0F), b[0][6] = bits(1.0F);
  a[2][2] = bits(1.0F), b[1][6] = bits(1.0F);
  a[2][4] = bits(-16777216.0F), b[2][6] = bits(1.0F);
  a[2][1] = bits(1.0F), b[0][7] = bits(1.0F);
  // Row 3: denormal factor, denormal product, denormal sum in C.
  a[3][0] = 1, b[0][0] = bits(1e30F);
  a[3][2] = bits(1e-30F), b[1][0] = bits(1e-30F);
  c[1][2] = 100.0F;
  c[3][0] = 1e-40F;
  Tiles::load<4>(a, sizeof a[0]);
  Tiles::load<5>(b, sizeof b[0]);
  Tiles::load<0>(c, sizeof c[0]);
  Tiles::multiply<0, 4, 5>();
  Tiles::store<0>(c, sizeof c[0]);
  Tiles::release();
  CHECK(c[1][2] == 100.0F + 15.0F - 14.0F + 2.0F);
  CHECK(c[2][3] == 1.0F);
  CHECK(c[3][0] == 0.0F);
  CHECK(c[0][0] == 0.0F);
  CHECK(fault().empty());
}

#endif
