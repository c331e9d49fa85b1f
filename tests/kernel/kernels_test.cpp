// Every kernel that this processor runs, through the same checks against the float64 oracle; and how one is
// chosen.
#include "support/kernels.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <ring_attention/attention/block_sparse_ring_dilated_attention.hpp>
#include <ring_attention/attention/ring_dilated_attention_production.hpp>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <ring_attention/attention/true_ring_dilated_attention.hpp>
#include <ring_attention/kernel/dispatch.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include "support/block_case.hpp"
#include "support/catch.hpp"
#include "support/check_backward.hpp"
#include "support/check_forward.hpp"
#include "support/error_text.hpp"
#include "support/random_case.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

template <class Scalar, class Attention>
std::string check(const test::RandomCase& c, const Attention& attention) {
  return test::check_forward<Scalar>(
             c, [&](const auto& q, const auto& k, const auto& v, const auto& out, const auto& lse,
                    const auto& options) { attention.forward(q, k, v, out, lse, options); }) +
         test::check_backward<Scalar>(c, attention);
}

/// A case of one head dimension; every other one causal.
test::RandomCase case_of_dimension(std::int64_t head_dim, bool causal) {
  test::RandomCase c;
  c.seed = static_cast<std::uint64_t>(2 * head_dim + causal);
  c.config.segment_lengths = {150, 40};
  c.config.dilation_rates = {1, 3};
  c.config.head_partition = ra::HeadPartition::shared;
  c.config.causal = causal;
  c.q = {1, 150, 2, head_dim};
  c.k = {1, 150, 1, head_dim};
  return c;
}

const std::vector<std::int64_t> head_dimensions{1,  2,   3,   7,   8,   9,   15,  16,  17,  23,  24,
                                                31, 32,  33,  47,  48,  63,  64,  65,  80,  95,  96,
                                                97, 100, 127, 128, 129, 160, 191, 192, 255, 256, 300};

}  // namespace

TEMPLATE_TEST_CASE("every kernel agrees with the oracle at every kind of head dimension", "[kernel]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  for (const std::string& kernel : ra::available_kernels()) {
    const test::KernelScope scope(kernel);
    for (const std::int64_t head_dim : head_dimensions) {
      for (const bool causal : {false, true}) {
        const test::RandomCase c = case_of_dimension(head_dim, causal);
        INFO(kernel << '\n' << c.describe());
        const std::string failure = check<TestType>(c, ra::RingDilatedAttentionV2<TestType>(c.config));
        INFO(failure);
        CHECK(failure.empty());
      }
    }
  }
}

TEMPLATE_TEST_CASE("every kernel agrees with the oracle for random configurations and classes",
                   "[kernel][property]", float, double, Eigen::half, Eigen::bfloat16) {
  for (const std::string& kernel : ra::available_kernels()) {
    const test::KernelScope scope(kernel);
    for (std::uint64_t seed = 50000; seed < 50000 + test::rule_combinations; ++seed) {
      const test::RandomCase c = test::make_random_case(seed, 2e6);
      INFO(kernel << '\n' << c.describe());
      const std::string failure =
          seed % 3 == 0   ? check<TestType>(c, ra::TrueRingDilatedAttention<TestType>(c.config))
          : seed % 3 == 1 ? check<TestType>(c, ra::RingDilatedAttentionV2<TestType>(c.config))
                          : check<TestType>(c, ra::RingDilatedAttentionProduction<TestType>(c.config));
      INFO(failure);
      CHECK(failure.empty());
      if (seed % 2 != 0) continue;
      const test::BlockCase block = test::make_block_case(seed);
      const ra::BlockSparseRingDilatedAttention<TestType> sparse(block.call.config, block.sparse);
      INFO(block.describe());
      const std::string of_blocks = test::check_block_forward<TestType>(block, sparse) +
                                    test::check_block_backward<TestType>(block, sparse);
      INFO(of_blocks);
      CHECK(of_blocks.empty());
    }
  }
}

TEMPLATE_TEST_CASE("every kernel agrees with the oracle for scales of either sign, small and 0", "[kernel]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  for (const std::string& kernel : ra::available_kernels()) {
    const test::KernelScope scope(kernel);
    for (const double scale : {-0.5, -0.01, 0.0, 1e-30, 0.3, 1.0}) {
      test::RandomCase c = case_of_dimension(40, scale < 0);
      c.config.scale = scale;
      INFO(kernel << ", scale " << scale);
      const std::string failure = check<TestType>(c, ra::RingDilatedAttentionV2<TestType>(c.config));
      INFO(failure);
      CHECK(failure.empty());
    }
  }
}

TEMPLATE_TEST_CASE("every kernel keeps NaN, infinities and huge scores where they belong", "[kernel]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using Accumulator = ra::accumulator_t<TestType>;
  ra::AttentionConfig config;
  config.segment_lengths = {100};
  config.dilation_rates = {1};
  config.scale = 1.0;
  const ra::RingDilatedAttentionV2<TestType> attention(config);
  for (const std::string& kernel : ra::available_kernels()) {
    const test::KernelScope scope(kernel);
    INFO(kernel);
    auto in = test::random_inputs<TestType>({1, 100, 1, 32}, 1);
    // Scores of +-1e4: query 3 sees key 7 alone, query 4 all keys but that one.
    for (std::int64_t d = 0; d < 32; ++d) {
      in.q(0, 3, 0, d) = TestType(static_cast<float>(d == 0 ? 100 : 0));
      in.q(0, 4, 0, d) = TestType(static_cast<float>(d == 0 ? -100 : 0));
      in.q(0, 5, 0, d) = TestType(std::numeric_limits<float>::quiet_NaN());
    }
    for (std::int64_t key = 0; key < 100; ++key)
      in.k(0, key, 0, 0) = TestType(static_cast<float>(key == 7 ? 100 : 0));
    const auto result = attention.forward_with_lse(in.q, in.k, in.v);
    CHECK(static_cast<double>(result.lse(0, 0, 3, 0)) == Approx(1e4));
    CHECK(static_cast<double>(result.lse(0, 0, 4, 0)) == Approx(std::log(99.0)).margin(1e-3));
    for (std::int64_t d = 0; d < 32; ++d) {
      CHECK(static_cast<double>(result.out(0, 3, 0, d)) == static_cast<double>(in.v(0, 7, 0, d)));
      CHECK(std::isnan(static_cast<double>(result.out(0, 5, 0, d))));
      CHECK(std::isfinite(static_cast<double>(result.out(0, 6, 0, d))));
    }
    CHECK(std::isnan(static_cast<double>(static_cast<Accumulator>(result.lse(0, 0, 5, 0)))));
  }
}

TEST_CASE("kernels are chosen by name, the best first", "[kernel]") {
  const std::vector<std::string> names = ra::available_kernels();
  REQUIRE_FALSE(names.empty());
  CHECK(names.back() == "generic");
  CHECK(std::string(ra::engine::active_kernel<double>().name) ==
        names[names.front() == "avx512_bf16" ? 1 : 0]);
  CHECK(std::string(ra::engine::active_kernel<Eigen::bfloat16>().name) == names.front());
  for (const std::string& name : names) {
    const test::KernelScope scope(name);
    // A scalar for which an instruction set has nothing of its own uses the next.
    const std::string expected = name == "avx512_bf16" ? "avx512" : name;
    CHECK(std::string(ra::engine::active_kernel<float>().name) == expected);
    CHECK(std::string(ra::engine::active_kernel<Eigen::bfloat16>().name) == name);
  }
  CHECK(test::error_text([] {
          ra::set_kernel("mmx");
        }).starts_with("kernel = \"mmx\": must be empty, or a kernel"));
  CHECK(std::string(ra::engine::active_kernel<Eigen::bfloat16>().name) == names.front());
}

TEMPLATE_TEST_CASE(
    "every kernel keeps the tolerance where values are large and where few keys serve many queries",
    "[kernel]", float, Eigen::half, Eigen::bfloat16) {
  for (const std::string& kernel : ra::available_kernels()) {
    const test::KernelScope scope(kernel);
    INFO(kernel);
    // Sums of large values cancel, so that references are far smaller than what is rounded.
    for (const float factor : {2.5F, 8.0F, 30.0F, 100.0F}) {
      // Scores in float are too coarse for float's own tolerance there, whatever the kernel.
      if (factor == 100.0F && std::is_same_v<TestType, float>) continue;
      INFO("values times " << factor);
      ra::AttentionConfig config;
      config.segment_lengths = {64};
      config.dilation_rates = {1};
      auto in = test::random_inputs<TestType>({1, 192, 4, 64}, 4);
      for (std::int64_t i = 0; i < in.v.size(); ++i) {
        in.v.data()[i] = static_cast<TestType>(static_cast<float>(in.v.data()[i]) * factor);
      }
      const auto result = ra::RingDilatedAttentionV2<TestType>(config).forward_with_lse(in.q, in.k, in.v);
      const std::string failure = test::check_result(config, in, result);
      INFO(failure);
      CHECK(failure.empty());
    }
    test::RandomCase c;
    c.seed = 77;
    c.config.segment_lengths = {4096};
    c.config.dilation_rates = {2048};
    c.q = {1, 4096, 2, 16};
    c.k = {1, 4096, 2, 16};
    const std::string failure =
        test::check_backward<TestType>(c, ra::RingDilatedAttentionV2<TestType>(c.config));
    INFO(failure);
    CHECK(failure.empty());
  }
}

// Where P or dS is rounded before it meets rows, what that takes from a gradient grows with the rows and with
// how many of them one row meets.
TEMPLATE_TEST_CASE("every kernel keeps the tolerance of gradients for rows of any size", "[kernel]", float,
                   Eigen::half, Eigen::bfloat16) {
  struct Case {
    const char* what;
    test::InputFactors factors;
    std::int64_t kv_heads;
    bool causal;
    bool within_float;  // no cancellation that is too much for float itself, whatever the kernel
  };
  const Case cases[] = {
      {"large dO", {.grad_out = 100}, 4, false, true},
      {"large values and dO", {.v = 20, .grad_out = 20}, 4, true, false},
      {"large keys", {.q = 0.05, .k = 20, .grad_out = 4}, 4, false, true},
      {"large queries", {.q = 20, .k = 0.05, .grad_out = 4}, 4, false, true},
      {"one key in charge of a query", {.q = 3, .k = 3, .grad_out = 10}, 4, false, false},
      {"eight heads to a key, of one mind", {.q = 0.01, .k = 0.01, .v = 4, .grad_out = 16}, 1, false, true},
  };
  for (const std::string& kernel : ra::available_kernels()) {
    const test::KernelScope scope(kernel);
    INFO(kernel);
    for (const Case& of_rows : cases) {
      if (std::is_same_v<TestType, float> && !of_rows.within_float) continue;
      INFO(of_rows.what);
      test::RandomCase c;
      c.seed = 12;
      c.config.segment_lengths = {300};
      c.config.dilation_rates = {1};
      c.config.causal = of_rows.causal;
      c.q = {1, 300, 8, 48};
      c.k = {1, 300, of_rows.kv_heads, 48};
      const std::string failure =
          test::check_backward<TestType>(c, ra::RingDilatedAttentionV2<TestType>(c.config), of_rows.factors);
      INFO(failure);
      CHECK(failure.empty());
    }
  }
}
