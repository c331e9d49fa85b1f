// Whether views share memory, against a count of every byte.
#include <cstdint>
#include <limits>
#include <ring_attention/memory_overlap.hpp>
#include <ring_attention/tensor.hpp>
#include <set>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

namespace ra = ring_attention;

/// Strides that make a row-major tensor, an axis order, an interleaved buffer, or nothing sensible.
ra::Strides random_strides(test::Random& random, const ra::Shape& shape) {
  ra::Strides strides{};
  std::int64_t step = shape[3] + (random.chance(0.3) ? random.integer(-2, 3) : 0);
  std::vector<std::size_t> axes{2, 1, 0};
  if (random.chance(0.5)) std::swap(axes[0], axes[1]);
  for (const std::size_t axis : axes) {
    strides[axis] = random.chance(0.2) ? random.integer(-12, 12) : random.chance(0.2) ? -step : step;
    step *= shape[axis] + (random.chance(0.3) ? random.integer(0, 2) : 0);
  }
  return strides;
}

template <class T>
std::vector<std::uintptr_t> bytes_of_row(const ra::TensorView<T>& view, std::int64_t b, std::int64_t n,
                                         std::int64_t h) {
  std::vector<std::uintptr_t> bytes;
  const auto begin = reinterpret_cast<std::uintptr_t>(view.row(b, n, h));
  for (std::uintptr_t i = 0; i < static_cast<std::uintptr_t>(view.shape()[3]) * sizeof(T); ++i) {
    bytes.push_back(begin + i);
  }
  return bytes;
}

/// Every byte that a view reaches; `twice` says whether a row reaches one of another row.
template <class T>
std::set<std::uintptr_t> bytes_of(const ra::TensorView<T>& view, bool& twice) {
  std::set<std::uintptr_t> all;
  twice = false;
  for (std::int64_t b = 0; b < view.shape()[0]; ++b) {
    for (std::int64_t n = 0; n < view.shape()[1]; ++n) {
      for (std::int64_t h = 0; h < view.shape()[2]; ++h) {
        for (const std::uintptr_t byte : bytes_of_row(view, b, n, h))
          twice = !all.insert(byte).second || twice;
      }
    }
  }
  return all;
}

}  // namespace

TEST_CASE("views overlap where they share a byte", "[tensor]") {
  test::Random random(11);
  std::vector<float> memory(4000);
  std::vector<double> counts(4, 0.0);
  for (int round = 0; round < 4000; ++round) {
    const auto shape = [&] {
      return ra::Shape{random.integer(1, 3), random.integer(1, 5), random.integer(1, 3),
                       random.integer(1, 4)};
    };
    const ra::Shape first_shape = shape();
    const ra::Shape second_shape = random.chance(0.5) ? first_shape : shape();
    const ra::Strides first_strides = random_strides(random, first_shape);
    const ra::Strides second_strides =
        random.chance(0.5) ? first_strides : random_strides(random, second_shape);
    const ra::TensorView<float> first(memory.data() + 2000, first_shape, first_strides);
    const ra::TensorView<double> second(
        reinterpret_cast<double*>(memory.data() + 2000 + 2 * random.integer(-40, 40)), second_shape,
        second_strides);
    const ra::TensorView<float> third(memory.data() + 2000 + random.integer(-90, 90), second_shape,
                                      second_strides);
    bool twice = false, ignored = false;
    const auto mine = bytes_of(first, twice);
    INFO("round " << round << ", shape " << ra::to_string(first_shape) << ", strides " << first_strides[0]
                  << " " << first_strides[1] << " " << first_strides[2]);
    REQUIRE(ra::detail::rows_overlap(first) == twice);
    const auto shares = [&](const std::set<std::uintptr_t>& others) {
      for (const std::uintptr_t byte : others) {
        if (mine.contains(byte)) return true;
      }
      return false;
    };
    const bool with_third = shares(bytes_of(third, ignored));
    REQUIRE(ra::detail::views_overlap(first, third) == with_third);
    REQUIRE(ra::detail::views_overlap(third, first) == with_third);
    REQUIRE(ra::detail::views_overlap(first, second) == shares(bytes_of(second, ignored)));
    ++counts[twice ? 0 : 1];
    ++counts[with_third ? 2 : 3];
  }
  for (const double count : counts) CHECK(count > 200);  // the rounds are of every kind
}

TEST_CASE("empty views and axes of extent 1 overlap nothing", "[tensor]") {
  std::vector<float> memory(64);
  const ra::TensorView<float> empty(memory.data(), {2, 0, 3, 4}, {0, 0, 0});
  const ra::TensorView<float> row(memory.data(), {1, 1, 1, 4}, {0, 0, 0});
  CHECK(!ra::detail::rows_overlap(empty));
  CHECK(!ra::detail::rows_overlap(row));
  CHECK(!ra::detail::views_overlap(empty, row));
  CHECK(!ra::detail::views_overlap(row, ra::TensorView<float>()));
  CHECK(ra::detail::views_overlap(row, row));
}

TEST_CASE("strides that no memory has are overlaps, and no distance overflows", "[tensor]") {
  std::vector<double> memory(64);
  constexpr std::int64_t longest = std::numeric_limits<std::int64_t>::max();
  const ra::TensorView<double> row(memory.data(), {1, 1, 1, 8});
  // Times 8 bytes the first comes to 2^64 and 64 bytes.
  for (const std::int64_t stride :
       {(std::int64_t{1} << 61) + 8, std::int64_t{1} << 60, longest, -longest - 1}) {
    for (std::size_t axis = 0; axis < 3; ++axis) {
      ra::Shape shape{1, 1, 1, 8};
      ra::Strides strides{8, 8, 8};
      strides[axis] = stride;
      INFO("axis " << axis << ", stride " << stride);
      const ra::TensorView<double> without_meaning(memory.data() + 16, shape, strides);
      CHECK(!ra::detail::rows_overlap(without_meaning));
      CHECK(!ra::detail::views_overlap(without_meaning, row));
      shape[axis] = 3;
      const ra::TensorView<double> view(memory.data() + 16, shape, strides);
      CHECK(ra::detail::rows_overlap(view));
      CHECK(ra::detail::views_overlap(view, row));
      CHECK(ra::detail::views_overlap(row, view));
    }
  }
  const ra::TensorView<double> large(memory.data(), {1, 1, 1, longest / 8});
  CHECK(ra::detail::views_overlap(large, row));
  CHECK(!ra::detail::rows_overlap(large));
}

TEST_CASE("views of large tensors are compared in no time", "[tensor]") {
  static float element = 0.0F;  // never read
  constexpr std::int64_t n = 1'000'000;
  const ra::TensorView<float> q(&element, {8, n, 16, 64}, {n * 4096, 4096, 64});
  const ra::TensorView<float> out(&element + 1024, {8, n, 16, 64}, {n * 4096, 4096, 64});
  const ra::TensorView<float> late(&element + 1023, {8, n, 16, 64}, {n * 4096, 4096, 64});
  for (int i = 0; i < 10'000; ++i) {
    REQUIRE(!ra::detail::views_overlap(q, out));
    REQUIRE(ra::detail::views_overlap(q, late));
    REQUIRE(!ra::detail::rows_overlap(out));
  }
}
