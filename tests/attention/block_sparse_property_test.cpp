// suites: instructions
// unit: blocks
// Random block-sparse calls, forward and backward, against the float64 oracle.
#include <cstdint>
#include <cstdlib>
#include <ring_attention/attention/block_sparse_ring_dilated_attention.hpp>
#include <string>
#include <type_traits>

#include "support/block_case.hpp"
#include "support/catch.hpp"
#include "support/effort.hpp"

namespace {

namespace ra = ring_attention;

constexpr std::uint64_t cases_per_type = 192;  // the patterns, causal and not, 24 times each

template <class Scalar>
void check_seed(std::uint64_t seed) {
  const test::BlockCase c = test::make_block_case(seed);
  INFO("replay with RING_ATTENTION_TEST_SEED=" << seed << '\n' << c.describe());
  const ra::BlockSparseRingDilatedAttention<Scalar> attention(c.call.config, c.sparse);
  const std::string forward = test::check_block_forward<Scalar>(c, attention);
  INFO(forward);
  CHECK(forward.empty());
  const std::string backward = test::check_block_backward<Scalar>(c, attention);
  INFO(backward);
  CHECK(backward.empty());
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

TEMPLATE_TEST_CASE("Block-sparse: random calls agree with the oracle", "[attention][block_sparse][property]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  if (const char* replay = std::getenv("RING_ATTENTION_TEST_SEED")) {
    check_seed<TestType>(std::strtoull(replay, nullptr, 10));
    return;
  }
  const test::CaseRange cases = test::random_cases(cases_per_type);
  for (std::uint64_t i = cases.begin; i < cases.end; ++i) check_seed<TestType>(first_seed<TestType>() + i);
}
