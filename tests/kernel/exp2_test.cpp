// The exponential of kernels that have no instruction for it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <ring_attention/kernel/targets.hpp>

#include "support/catch.hpp"

namespace {

namespace engine = ring_attention::engine;

template <class T>
T exp2_of(T x) {
  engine::generic::Lanes<T> lanes{};
  lanes[0] = x;
  return engine::generic::exp2_lanes<T>(lanes)[0];
}

/// Largest relative error over `count` arguments from `lowest` to 0, against twice the precision or more.
template <class T>
double largest_error(T lowest, std::int64_t count) {
  double largest = 0.0;
  for (std::int64_t i = 0; i <= count; ++i) {
    const T x = lowest * static_cast<T>(i) / static_cast<T>(count);
    const long double exact = std::exp2(static_cast<long double>(x));
    const auto error = static_cast<double>(std::abs(static_cast<long double>(exp2_of(x)) / exact - 1.0L));
    if (!(error <= largest)) largest = error;  // NaN stays
  }
  return largest;
}

}  // namespace

TEST_CASE("2^x is exact to two units in the last place", "[kernel]") {
  CHECK(largest_error<float>(-126.0F, 1 << 20) < 2.4e-7);
  CHECK(largest_error<float>(-1.0F, 1 << 20) < 2.4e-7);
  CHECK(largest_error<double>(-1022.0, 1 << 20) < 4.5e-16);
  CHECK(largest_error<double>(-1.0, 1 << 20) < 4.5e-16);
}

TEMPLATE_TEST_CASE("2^x of special arguments", "[kernel]", float, double) {
  using Limits = std::numeric_limits<TestType>;
  constexpr auto lowest = static_cast<TestType>(Limits::min_exponent - 1);
  CHECK(exp2_of(TestType{0}) == TestType{1});
  CHECK(exp2_of(TestType{-1}) == TestType{0.5});
  CHECK(exp2_of(lowest) == Limits::min());
  CHECK(exp2_of(std::nextafter(lowest, Limits::lowest())) == TestType{0});
  CHECK(exp2_of(Limits::lowest()) == TestType{0});
  CHECK(exp2_of(-Limits::infinity()) == TestType{0});
  CHECK(std::isnan(exp2_of(Limits::quiet_NaN())));
}
