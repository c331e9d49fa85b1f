// Two softmax states become the one of all their keys.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <ring_attention/cpu/softmax_state.hpp>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

namespace engine = ring_attention::engine;

constexpr std::int64_t dims = 3;
template <class T>
constexpr T none = -std::numeric_limits<T>::infinity();

template <class T>
struct State {
  T maximum = none<T>;
  T sum = 0;
  std::vector<T> output = std::vector<T>(dims);

  void merge(const State& other) {
    engine::merge<T>({&maximum, &sum, output.data(), dims},
                     {&other.maximum, &other.sum, other.output.data(), dims});
  }
  bool operator==(const State&) const = default;
};

/// Of keys with these scores; value d of key k is k + d.
template <class T>
State<T> state_of(const std::vector<double>& scores) {
  State<T> state;
  if (scores.empty()) return state;
  const double maximum = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  std::vector<double> output(dims);
  for (std::size_t k = 0; k < scores.size(); ++k) {
    const double p = std::exp2(scores[k] - maximum);
    sum += p;
    for (std::size_t d = 0; d < dims; ++d) output[d] += p * static_cast<double>(k + d);
  }
  state.maximum = static_cast<T>(maximum);
  state.sum = static_cast<T>(sum);
  for (std::size_t d = 0; d < dims; ++d) state.output[d] = static_cast<T>(output[d]);
  return state;
}

}  // namespace

TEMPLATE_TEST_CASE("merged states are the state of all keys", "[kernel]", float, double) {
  test::Random random(5);
  for (int round = 0; round < 300; ++round) {
    const double size = random.pick({1.0, 30.0, 1e4});
    std::vector<double> first(static_cast<std::size_t>(random.integer(0, 4)));
    std::vector<double> second(static_cast<std::size_t>(random.integer(0, 4)));
    for (double& score : first) score = static_cast<TestType>(size * random.normal());
    for (double& score : second) score = static_cast<TestType>(size * random.normal());
    std::vector<double> all = first;
    all.insert(all.end(), second.begin(), second.end());
    State<TestType> merged = state_of<TestType>(first);
    State<TestType> other = state_of<TestType>(second);
    // The second's keys come after the first's in all.
    for (std::size_t d = 0; d < dims; ++d) other.output[d] += other.sum * static_cast<TestType>(first.size());
    merged.merge(other);
    const State<TestType> expected = state_of<TestType>(all);
    const double tolerance = 64 * static_cast<double>(std::numeric_limits<TestType>::epsilon());
    CHECK(merged.maximum == expected.maximum);
    CHECK(std::abs(static_cast<double>(merged.sum - expected.sum)) <= tolerance);
    for (std::size_t d = 0; d < dims; ++d) {
      CHECK(std::abs(static_cast<double>(merged.output[d] - expected.output[d])) <= 10 * tolerance);
    }
  }
}

TEMPLATE_TEST_CASE("states without keys change nothing", "[kernel]", float, double) {
  const State<TestType> some = state_of<TestType>({3.0, -2.0});
  State<TestType> merged = some;
  merged.merge(State<TestType>());
  CHECK(merged == some);
  merged = State<TestType>();
  merged.merge(some);
  CHECK(merged == some);
  merged = State<TestType>();
  merged.merge(State<TestType>());
  CHECK(merged == State<TestType>());
}

TEMPLATE_TEST_CASE("equal maxima add up exactly, and NaN stays", "[kernel]", float, double) {
  State<TestType> merged = state_of<TestType>({5.0});
  merged.merge(state_of<TestType>({5.0}));
  CHECK(merged.maximum == TestType{5});
  CHECK(merged.sum == TestType{2});
  CHECK(merged.output[1] == TestType{2});
  State<TestType> broken = state_of<TestType>({5.0});
  broken.sum = broken.maximum = std::numeric_limits<TestType>::quiet_NaN();
  merged.merge(broken);
  CHECK(std::isnan(merged.sum));
  broken.merge(state_of<TestType>({5.0}));
  CHECK(std::isnan(broken.sum));
}
