// The classes over MPI against one process, on however many ranks mpirun starts.
#include <cstddef>
#include <cstdint>
#include <ring_attention/attention/block_sparse_ring_dilated_attention.hpp>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <string>
#include <type_traits>
#include <utility>

#include "mpi/on_ranks.hpp"
#include "support/block_case.hpp"
#include "support/catch.hpp"
#include "support/check_backward.hpp"
#include "support/compare.hpp"
#include "support/distributed.hpp"
#include "support/effort.hpp"
#include "support/golden.hpp"
#include "support/oracle_adapter.hpp"
#include "support/random_case.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

/// Forward and backward of `ring` against those of `whole`, within the contract's tolerances.
template <class Scalar, class Ring, class Whole>
void check_same(const test::RandomCase& c, const Ring& ring, const Whole& whole) {
  const auto q = test::random_tensor<Scalar>(c.q, c.seed + 1);
  const auto k = test::random_tensor<Scalar>(c.k, c.seed + 2);
  const auto v = test::random_tensor<Scalar>(c.k, c.seed + 3);
  const auto grad_out = test::random_tensor<Scalar>(c.q, c.seed + 4);
  const auto expected = whole.forward_with_lse(q, k, v, ra::ForwardOptions{.lengths = c.lengths});
  const auto result = ring.forward_with_lse(q, k, v, ra::ForwardOptions{.lengths = c.lengths});
  // Both differ from the exact result by the tolerance at most; scores here are no larger than 100.
  const auto tolerance = test::tolerance_of<Scalar>(2);
  const auto check = [](const char* name, const auto& actual, const auto& expected_tensor, double allowed,
                        bool gradient = true) {
    const auto reference = test::to_float64(std::as_const(expected_tensor).view());
    const auto comparison = test::compare_all(name, test::to_float64(std::as_const(actual).view()), reference,
                                              allowed, gradient ? test::gradient_size<Scalar>(reference) : 0);
    INFO(comparison.message());
    CHECK(comparison.passed());
  };
  check("out", result.out, expected.out, tolerance.out, false);
  for (std::int64_t i = 0; i < result.lse.size(); ++i) {
    const double actual = test::to_double(result.lse.data()[i]);
    const double reference = test::to_double(expected.lse.data()[i]);
    CHECK((actual == reference ||
           std::abs(actual - reference) <= tolerance.lse * std::max(1.0, std::abs(reference))));
  }
  const auto expected_grads =
      whole.backward(q, k, v, expected, grad_out, ra::BackwardOptions{.lengths = c.lengths, .grad_lse = {}});
  const auto grads =
      ring.backward(q, k, v, expected, grad_out, ra::BackwardOptions{.lengths = c.lengths, .grad_lse = {}});
  check("grad_q", grads.q, expected_grads.q, tolerance.gradient);
  check("grad_k", grads.k, expected_grads.k, tolerance.gradient);
  check("grad_v", grads.v, expected_grads.v, tolerance.gradient);
}

}  // namespace

TEMPLATE_TEST_CASE("ranks agree with one process for random shapes and every rule", "[mpi]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  // With 1, 2, 3, 4 and 8 ranks that makes 720 shapes in float and 720 in the others.
  const test::CaseRange seeds = std::is_same_v<TestType, float>
                                    ? test::random_cases(3 * test::rule_combinations)
                                    : test::CaseRange{0, test::rule_combinations};
  for (std::uint64_t seed = seeds.begin; seed < seeds.end; ++seed) {
    const test::RandomCase c = test::case_on_ranks(seed + 10'000 * sizeof(TestType) +
                                                   1'000 * static_cast<std::uint64_t>(test::world_size()));
    INFO(c.describe());
    const test::ThreadScope threads(1);
    check_same<TestType>(c, test::Distributed<TestType, test::OnRanks>(c.config, test::OnRanks()),
                         ra::RingDilatedAttentionV2<TestType>(c.config));
  }
}

TEST_CASE("block-sparse ranks agree with one process", "[mpi]") {
  for (std::uint64_t seed = 0; seed < 48; ++seed) {
    test::BlockCase c = test::make_block_case(seed);
    c.call.config.ring_size = test::world_size();
    INFO(c.describe());
    const test::ThreadScope threads(1);
    check_same<float>(
        c.call, test::BlockSparseDistributed<float, test::OnRanks>(c.call.config, c.sparse, test::OnRanks()),
        ra::BlockSparseRingDilatedAttention<float>(c.call.config, c.sparse));
  }
}

TEST_CASE("ranks give the reference outputs and gradients in both layouts", "[mpi]") {
  for (const std::string& name : test::golden_names()) {
    const test::Golden golden = test::load_golden(name);
    for (const auto layout : {ra::ShardLayout::contiguous, ra::ShardLayout::zigzag}) {
      ra::AttentionConfig config = golden.config;
      config.ring_size = test::world_size();
      config.shard_layout = layout;
      INFO(name << ", zigzag " << (layout == ra::ShardLayout::zigzag));
      const test::Distributed<float, test::OnRanks> ring(config, test::OnRanks());
      const auto result = ring.forward_with_lse(golden["q"], golden["k"], golden["v"]);
      const auto grads = ring.backward(golden["q"], golden["k"], golden["v"], result, golden["grad_out"]);
      const auto check = [&golden](const char* which, const ra::Tensor<float>& actual, double tolerance) {
        const auto comparison = test::compare_all(which, test::to_float64(actual.view()),
                                                  test::to_float64(golden[which].view()), tolerance);
        INFO(comparison.message());
        CHECK(comparison.passed());
      };
      check("out", result.out, 2e-5);
      check("grad_q", grads.q, 1e-4);
      check("grad_k", grads.k, 1e-4);
      check("grad_v", grads.v, 1e-4);
    }
  }
}
