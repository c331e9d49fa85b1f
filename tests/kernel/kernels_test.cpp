// suites: instructions
// Every kernel that this processor runs, through the same checks against the float64 oracle; and how one is
// chosen.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/attention/block_sparse_ring_dilated_attention.hpp>
#include <ring_attention/attention/ring_dilated_attention_production.hpp>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <ring_attention/attention/true_ring_dilated_attention.hpp>
#include <ring_attention/kernel/dispatch.hpp>
#include <string>
#include <vector>

#include "support/block_case.hpp"
#include "support/catch.hpp"
#include "support/effort.hpp"
#include "support/error_text.hpp"
#include "support/in_context.hpp"
#include "support/kernel_checks.hpp"
#include "support/random_case.hpp"

namespace {

namespace ra = ring_attention;

/// Makes a V2 that computes with a kernel.
template <class Scalar>
auto v2_with(const std::string& kernel) {
  return [context = test::with_kernel(kernel)](const ra::AttentionConfig& config) {
    return test::InContext(context, ra::RingDilatedAttentionV2<Scalar>(config));
  };
}

std::vector<ra::Context> all_kernels() {
  std::vector<ra::Context> contexts;
  for (const std::string& kernel : ra::available_kernels()) contexts.push_back(test::with_kernel(kernel));
  return contexts;
}

/// The process's kernel for the length of a scope, then the best one again.
class KernelScope {
 public:
  explicit KernelScope(const std::string& name) { ra::set_kernel(name); }
  KernelScope(const KernelScope&) = delete;
  KernelScope& operator=(const KernelScope&) = delete;
  ~KernelScope() { ra::set_kernel(""); }
};

/// Kernels that have code of their own for bfloat16 alone.
bool serves_bfloat16_only(const std::string& kernel) {
  return kernel == "amx_bf16" || kernel == "avx512_bf16";
}

const std::vector<std::int64_t> head_dimensions{1,  2,   3,   7,   8,   9,   15,  16,  17,  23,  24,
                                                31, 32,  33,  47,  48,  63,  64,  65,  80,  95,  96,
                                                97, 100, 127, 128, 129, 160, 191, 192, 255, 256, 300};

}  // namespace

TEMPLATE_TEST_CASE("every kernel agrees with the oracle at every kind of head dimension", "[kernel]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  const std::size_t every = static_cast<std::size_t>(test::every_case());
  const std::vector<ra::Context> contexts = all_kernels();
  for (std::size_t i = 0; i < head_dimensions.size(); ++i) {
    std::vector<ra::Context> some;  // others for each head dimension
    for (std::size_t j = i % every; j < contexts.size(); j += every) some.push_back(contexts[j]);
    test::check_head_dimension<TestType>(head_dimensions[i],
                                         test::in_contexts<ra::RingDilatedAttentionV2<TestType>>(some));
  }
}

TEMPLATE_TEST_CASE("every kernel agrees with the oracle for random configurations and classes",
                   "[kernel][property]", float, double, Eigen::half, Eigen::bfloat16) {
  const std::vector<ra::Context> contexts = all_kernels();
  for (std::uint64_t seed = 50000; seed < 50000 + test::rule_combinations; ++seed) {
    const test::RandomCase c = test::make_random_case(seed, 2e6);
    switch (seed % 3) {
      case 0:
        test::check_both<TestType>(c, test::in_contexts<ra::TrueRingDilatedAttention<TestType>>(contexts));
        break;
      case 1:
        test::check_both<TestType>(c, test::in_contexts<ra::RingDilatedAttentionV2<TestType>>(contexts));
        break;
      default:
        test::check_both<TestType>(c,
                                   test::in_contexts<ra::RingDilatedAttentionProduction<TestType>>(contexts));
    }
    if (seed % 2 != 0) continue;
    const test::BlockCase block = test::make_block_case(seed);
    for (const ra::Context& context : contexts) {
      const test::InContext sparse(
          context, ra::BlockSparseRingDilatedAttention<TestType>(block.call.config, block.sparse));
      INFO(context.kernel.name() << '\n' << block.describe());
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
    INFO(kernel);
    test::check_scales<TestType>(v2_with<TestType>(kernel));
  }
}

TEMPLATE_TEST_CASE("every kernel keeps NaN, infinities and huge scores where they belong", "[kernel]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  for (const std::string& kernel : ra::available_kernels()) {
    INFO(kernel);
    test::check_not_a_number<TestType>(v2_with<TestType>(kernel));
  }
}

TEST_CASE("kernels are chosen by name, the best first", "[kernel]") {
  const std::vector<std::string> names = ra::available_kernels();
  REQUIRE_FALSE(names.empty());
  CHECK(names.back() == "generic");
  CHECK(ra::kernel_for<double>(ra::Direction::forward) ==
        *std::ranges::find_if_not(names, serves_bfloat16_only));
  CHECK(ra::kernel_for<Eigen::bfloat16>(ra::Direction::forward) == names.front());
  for (const std::string& name : names) {
    const KernelScope scope(name);
    // A scalar for which an instruction set has nothing of its own uses the next.
    const std::string expected = serves_bfloat16_only(name) ? "avx512" : name;
    for (const ra::Direction direction : {ra::Direction::forward, ra::Direction::backward}) {
      CHECK(ra::kernel_for<float>(direction) == expected);
      CHECK(ra::kernel_for<double>(direction) == expected);
      CHECK(ra::kernel_for<Eigen::half>(direction) == expected);
    }
    CHECK(ra::kernel_for<Eigen::bfloat16>(ra::Direction::forward) == name);
    CHECK(ra::kernel_for<Eigen::bfloat16>(ra::Direction::backward) ==
          (name == "amx_bf16" ? "avx512_bf16" : name));
  }
  CHECK(ra::kernel_for<Eigen::bfloat16>(ra::Direction::forward) == names.front());
  CHECK(test::error_text([] {
          ra::set_kernel("mmx");
        }).starts_with("kernel = \"mmx\": must be empty, or a kernel"));
  CHECK(ra::kernel_for<Eigen::bfloat16>(ra::Direction::forward) == names.front());
}

TEMPLATE_TEST_CASE(
    "every kernel keeps the tolerance where values are large and where few keys serve many queries",
    "[kernel]", float, Eigen::half, Eigen::bfloat16) {
  for (const std::string& kernel : ra::available_kernels()) {
    INFO(kernel);
    test::check_large_numbers<TestType>(v2_with<TestType>(kernel));
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
      // dS sum up to almost nothing, rounded ones do not.
      {"keys with a large number in common", {.grad_out = 10, .common_key = 300}, 4, false, false},
      {"such keys, and causal", {.q = 0.01, .common_key = -300}, 4, true, false},
      {"eight heads to a key, of one mind", {.q = 0.01, .k = 0.01, .v = 4, .grad_out = 16}, 1, false, true},
  };
  for (const std::string& kernel : ra::available_kernels()) {
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
          test::check_backward<TestType>(c, v2_with<TestType>(kernel)(c.config), of_rows.factors);
      INFO(failure);
      CHECK(failure.empty());
    }
  }
}
