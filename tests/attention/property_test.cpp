// suites: instructions
// unit: random
// Random configurations of forward against the float64 oracle.
#include <cstdint>
#include <cstdlib>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <set>
#include <string>
#include <type_traits>

#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/effort.hpp"
#include "support/random_case.hpp"

namespace {

namespace ra = ring_attention;

constexpr std::uint64_t cases_per_type = 6 * test::rule_combinations;

template <class Scalar>
void check_seed(std::uint64_t seed) {
  const test::RandomCase c = test::make_random_case(seed);
  INFO("replay with RING_ATTENTION_TEST_SEED=" << seed << '\n' << c.describe());
  const ra::RingDilatedAttentionV2<Scalar> attention(c.config);
  const std::string failure = test::check_forward<Scalar>(
      c, [&](const auto& q, const auto& k, const auto& v, const auto& out, const auto& lse,
             const auto& options) { attention.forward(q, k, v, out, lse, options); });
  INFO(failure);
  CHECK(failure.empty());
}

/// Every type has its own seeds, so that a seed names one case of one type.
template <class Scalar>
constexpr std::uint64_t first_seed() {
  if constexpr (std::is_same_v<Scalar, float>) return 0;
  if constexpr (std::is_same_v<Scalar, double>) return cases_per_type;
  if constexpr (std::is_same_v<Scalar, Eigen::half>) return 2 * cases_per_type;
  return 3 * cases_per_type;
}

}  // namespace

TEMPLATE_TEST_CASE("V2 forward: random configurations agree with the oracle", "[attention][property]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  if (const char* replay = std::getenv("RING_ATTENTION_TEST_SEED")) {
    check_seed<TestType>(std::strtoull(replay, nullptr, 10));
    return;
  }
  std::set<std::uint64_t> rules;
  const test::CaseRange cases = test::random_cases(cases_per_type);
  for (std::uint64_t i = cases.begin; i < cases.end; ++i) {
    const std::uint64_t seed = first_seed<TestType>() + i;
    rules.insert(test::rules_of(test::make_random_case(seed).config));
    check_seed<TestType>(seed);
  }
  CHECK(rules.size() == test::rule_combinations);
}
