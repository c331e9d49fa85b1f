#include <Eigen/Core>
#include <cstdint>
#include <limits>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/error_text.hpp"

namespace ra = ring_attention;

namespace {

/// The largest extent, not known to the optimizer: g++ 14 otherwise warns about code that the checks keep
/// from running.
std::int64_t largest_extent() {
  volatile std::int64_t extent = std::numeric_limits<std::int64_t>::max();
  return extent;
}

/// An element's value tells its position.
float at(std::int64_t b, std::int64_t n, std::int64_t h, std::int64_t d) {
  return static_cast<float>(((b * 10 + n) * 10 + h) * 10 + d);
}

template <class View>
bool holds_positions(const View& view) {
  const ra::Shape shape = view.shape();
  for (std::int64_t b = 0; b < shape[0]; ++b) {
    for (std::int64_t n = 0; n < shape[1]; ++n) {
      for (std::int64_t h = 0; h < shape[2]; ++h) {
        for (std::int64_t d = 0; d < shape[3]; ++d) {
          if (!(view(b, n, h, d) == at(b, n, h, d)) || !(view.row(b, n, h)[d] == at(b, n, h, d)))
            return false;
        }
      }
    }
  }
  return true;
}

template <class Writable>
void fill_positions(Writable&& target, const ra::Shape& shape) {
  for (std::int64_t b = 0; b < shape[0]; ++b) {
    for (std::int64_t n = 0; n < shape[1]; ++n) {
      for (std::int64_t h = 0; h < shape[2]; ++h) {
        for (std::int64_t d = 0; d < shape[3]; ++d) target(b, n, h, d) = at(b, n, h, d);
      }
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("a tensor is zero-filled, row-major and 64-byte aligned", "[tensor]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  for (const std::int64_t d : {1, 3, 7, 64}) {
    ra::Tensor<TestType> tensor(2, 3, 5, d);
    REQUIRE(tensor.shape() == ra::Shape{2, 3, 5, d});
    REQUIRE(tensor.size() == 30 * d);
    REQUIRE(reinterpret_cast<std::uintptr_t>(tensor.data()) % 64 == 0);
    for (std::int64_t i = 0; i < tensor.size(); ++i) REQUIRE(static_cast<float>(tensor.data()[i]) == 0.0f);
    tensor(1, 2, 4, d - 1) = TestType(7.0f);
    REQUIRE(static_cast<float>(tensor.data()[tensor.size() - 1]) == 7.0f);
    REQUIRE(&std::as_const(tensor)(1, 0, 0, 0) == tensor.data() + 15 * d);
  }
}

TEST_CASE("tensors copy deeply and move their memory", "[tensor]") {
  ra::Tensor<float> first(1, 2, 2, 3);
  fill_positions(first, first.shape());
  const ra::Tensor<float> copy = first;
  first(0, 0, 0, 0) = -1.0f;
  CHECK(holds_positions(copy.view()));
  CHECK(copy.data() != first.data());

  const float* const memory = first.data();
  ra::Tensor<float> moved = std::move(first);
  CHECK(moved.data() == memory);
  CHECK(moved.shape() == ra::Shape{1, 2, 2, 3});
  // NOLINTNEXTLINE(bugprone-use-after-move): a moved-from tensor is empty by contract
  CHECK(first.size() == 0);

  ra::Tensor<float> assigned;
  assigned = copy;
  CHECK(holds_positions(assigned.view()));
  assigned = std::move(moved);
  CHECK(assigned.data() == memory);
}

TEST_CASE("empty tensors keep their shape", "[tensor]") {
  for (const ra::Shape& shape : {ra::Shape{0, 5, 2, 4}, ra::Shape{3, 0, 2, 4}, ra::Shape{0, 0, 0, 0}}) {
    const ra::Tensor<float> tensor(shape);
    CHECK(tensor.size() == 0);
    CHECK(tensor.shape() == shape);
    CHECK(tensor.view().shape() == shape);
  }
  CHECK(ra::Tensor<float>().size() == 0);
}

TEST_CASE("an empty shape may hold extents whose product overflows", "[tensor]") {
  const std::int64_t huge = largest_extent();
  const ra::Tensor<float> tensor(ra::Shape{huge, huge, 0, 4});
  CHECK(tensor.size() == 0);
  CHECK(tensor.view().size() == 0);
  CHECK(ra::TensorView<const float>(nullptr, {huge, 0, huge, huge}).size() == 0);
}

TEST_CASE("views look at a tensor's own memory", "[tensor][view]") {
  ra::Tensor<float> tensor(2, 3, 4, 5);
  const ra::TensorView<float> view = tensor.view();
  CHECK(view.data() == tensor.data());
  CHECK(view.strides() == ra::Strides{60, 20, 5});
  fill_positions(view, view.shape());
  CHECK(holds_positions(tensor.view()));
  CHECK(holds_positions(std::as_const(tensor).view()));

  const ra::TensorView<const float> converted = tensor;
  CHECK(converted.data() == tensor.data());
  const ra::TensorView<const float> read_only = view;
  CHECK(read_only.strides() == view.strides());
  CHECK(read_only.size() == 120);
}

TEST_CASE("a temporary tensor does not turn into a view, a read-only one not into a writable one",
          "[tensor][view]") {
  using Tensor = ra::Tensor<float>;
  STATIC_REQUIRE(std::is_convertible_v<Tensor&, ra::TensorView<float>>);
  STATIC_REQUIRE(std::is_convertible_v<const Tensor&, ra::TensorView<const float>>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<const Tensor&, ra::TensorView<float>>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<Tensor&&, ra::TensorView<float>>);
  STATIC_REQUIRE(std::is_convertible_v<ra::TensorView<float>, ra::TensorView<const float>>);
  STATIC_REQUIRE_FALSE(std::is_convertible_v<ra::TensorView<const float>, ra::TensorView<float>>);
}

TEST_CASE("raw memory with gaps is seen through strides", "[tensor][view]") {
  const ra::Shape shape{2, 3, 2, 4};
  std::vector<float> memory(400, -1.0f);
  const ra::Strides strides{150, 45, 11};
  const ra::TensorView<float> view(memory.data() + 3, shape, strides);
  fill_positions(view, shape);
  CHECK(holds_positions(view));
  CHECK(memory[3 + 150 + 2 * 45 + 11 + 3] == at(1, 2, 1, 3));
  CHECK(memory[2] == -1.0f);
  CHECK(memory[3 + 4] == -1.0f);
}

TEST_CASE("strides may be negative or zero", "[tensor][view]") {
  std::vector<float> memory(3 * 4);
  const ra::TensorView<float> backwards(memory.data() + 8, {1, 3, 1, 4}, {0, -4, 0});
  fill_positions(backwards, backwards.shape());
  CHECK(holds_positions(backwards));
  CHECK(memory[0] == at(0, 2, 0, 0));

  const float row[] = {at(0, 0, 0, 0), at(0, 0, 0, 1)};
  const ra::TensorView<const float> repeated(row, {2, 5, 3, 2}, {0, 0, 0});
  CHECK(repeated(1, 4, 2, 1) == at(0, 0, 0, 1));
}

TEST_CASE("memory laid out [b, h, n, d] is seen as [b, n, h, d] without a copy", "[tensor][view]") {
  const std::int64_t b = 2, n = 5, h = 3, d = 4;
  std::vector<float> memory(static_cast<std::size_t>(b * n * h * d));
  const ra::TensorView<float> by_head(memory.data(), {b, h, n, d});
  for (std::int64_t i = 0; i < b; ++i) {
    for (std::int64_t j = 0; j < h; ++j) {
      for (std::int64_t t = 0; t < n; ++t) {
        for (std::int64_t e = 0; e < d; ++e) by_head(i, j, t, e) = at(i, t, j, e);
      }
    }
  }
  const ra::TensorView<float> by_token = ra::swap_sequence_and_heads(by_head);
  CHECK(by_token.data() == memory.data());
  CHECK(by_token.shape() == ra::Shape{b, n, h, d});
  CHECK(holds_positions(by_token));
  CHECK(ra::swap_sequence_and_heads(by_token).strides() == by_head.strides());
}

TEST_CASE("row-major Eigen tensors and maps are viewed without a copy", "[tensor][eigen]") {
  Eigen::Tensor<float, 4, Eigen::RowMajor> tensor(2, 3, 4, 5);
  const ra::TensorView<float> view = ra::view(tensor);
  CHECK(view.data() == tensor.data());
  CHECK(view.shape() == ra::Shape{2, 3, 4, 5});
  fill_positions(tensor, view.shape());
  CHECK(holds_positions(view));

  std::vector<float> memory(60);
  Eigen::TensorMap<Eigen::Tensor<float, 4, Eigen::RowMajor>> map(memory.data(), 1, 3, 4, 5);
  ra::view(map)(0, 2, 3, 4) = 7.0f;
  CHECK(memory[59] == 7.0f);
  CHECK(map(0, 2, 3, 4) == 7.0f);
}

TEST_CASE("read-only Eigen tensors and maps give read-only views", "[tensor][eigen]") {
  const Eigen::Tensor<double, 4, Eigen::RowMajor> tensor(1, 2, 3, 4);
  const auto view = ra::view(tensor);
  STATIC_REQUIRE(std::is_same_v<decltype(view), const ra::TensorView<const double>>);
  CHECK(view.data() == tensor.data());

  const std::vector<float> memory(24);
  const Eigen::TensorMap<const Eigen::Tensor<float, 4, Eigen::RowMajor>> map(memory.data(), 1, 2, 3, 4);
  const auto map_view = ra::view(map);
  STATIC_REQUIRE(std::is_same_v<decltype(map_view), const ra::TensorView<const float>>);
  CHECK(map_view.data() == memory.data());
}

TEST_CASE("Eigen tensors of half and bfloat16 are viewed as such", "[tensor][eigen]") {
  Eigen::Tensor<Eigen::half, 4, Eigen::RowMajor> half(1, 2, 1, 8);
  Eigen::Tensor<Eigen::bfloat16, 4, Eigen::RowMajor> bfloat16(1, 2, 1, 8);
  STATIC_REQUIRE(std::is_same_v<decltype(ra::view(half)), ra::TensorView<Eigen::half>>);
  STATIC_REQUIRE(std::is_same_v<decltype(ra::view(bfloat16)), ra::TensorView<Eigen::bfloat16>>);
  CHECK(ra::view(half).data() == half.data());
  CHECK(ra::view(bfloat16).data() == bfloat16.data());
}

TEST_CASE("an Eigen map whose last dimension is not contiguous is refused", "[tensor][eigen][errors]") {
  Eigen::Tensor<float, 4> column_major(2, 3, 4, 5);
  CHECK(test::error_text([&] { ra::view(column_major); }) ==
        "Eigen tensor layout = ColMajor: the last dimension (d) must be contiguous: use Eigen::RowMajor");
}

TEST_CASE("a column-major Eigen tensor with one dimension per head is viewed as it lies", "[tensor][eigen]") {
  Eigen::Tensor<float, 4> column_major(2, 3, 4, 1);
  for (std::int64_t i = 0; i < column_major.size(); ++i) column_major.data()[i] = static_cast<float>(i);
  const auto view = ra::view(column_major);
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t n = 0; n < 3; ++n) {
      for (std::int64_t h = 0; h < 4; ++h) CHECK(view(b, n, h, 0) == column_major(b, n, h, 0));
    }
  }
}

TEST_CASE("shapes and pointers that cannot be are refused", "[tensor][errors]") {
  const std::int64_t huge = largest_extent();
  CHECK(test::error_text([] { ra::Tensor<float>(1, -2, 3, 4); }) ==
        "tensor extent n = -2: must not be negative");
  CHECK(test::error_text([] { ra::Tensor<float>(-1, 2, 3, 4); }) ==
        "tensor extent b = -1: must not be negative");
  CHECK(test::error_text([] { ra::Tensor<float>(0, 2, 3, -4); }) ==
        "tensor extent d = -4: must not be negative");
  CHECK(test::error_text([=] { ra::Tensor<double>(1, huge, 2, 1); }) ==
        "tensor shape = [1, 9223372036854775807, 2, 1]: its size in bytes overflows");
  CHECK(test::error_text([=] { ra::Tensor<double>(1, huge / 8 + 1, 1, 1); }) ==
        "tensor shape = [1, 1152921504606846976, 1, 1]: its size in bytes overflows");
  float element = 0;
  CHECK(test::error_text([&] {
          ra::TensorView<float>(&element, {1, -1, 1, 1}, {1, 1, 1});
        }) == "view extent n = -1: must not be negative");
  CHECK(test::error_text([&] {
          ra::TensorView<float>(&element, {huge, huge, 1, 1}, {1, 1, 1});
        }) == "view shape = [9223372036854775807, 9223372036854775807, 1, 1]: its size in bytes overflows");
  CHECK(test::error_text([] {
          ra::TensorView<float>(nullptr, {1, 2, 3, 4}, {24, 12, 4});
        }) == "view data = null: a view of shape [1, 2, 3, 4] needs memory");
}

TEST_CASE("null data of size zero is accepted", "[tensor][view]") {
  const ra::TensorView<float> view(nullptr, {1, 0, 3, 4});
  CHECK(view.size() == 0);
  CHECK(ra::TensorView<float>().size() == 0);
}
