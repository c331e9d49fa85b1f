// Sums, and partial results between chunks, branches and ring hops, stay in the accumulator type: results of
// half and bfloat16 differ from the oracle by one rounding, however many chunks and branches were merged. A
// kernel that multiplies pairs of bfloat16 rounds each probability once, too.
#include <cmath>
#include <cstdint>
#include <limits>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <ring_attention/kernel/dispatch.hpp>
#include <string>
#include <type_traits>

#include "support/catch.hpp"
#include "support/compare.hpp"
#include "support/oracle.hpp"
#include "support/oracle_adapter.hpp"
#include "support/random_case.hpp"
#include "support/tensors.hpp"

namespace ra = ring_attention;

namespace {

/// The results for the sizes of the values: what rounded probabilities can change a result by, but for a
/// factor.
oracle::Result forward_of_sizes(const oracle::Problem& problem, oracle::Inputs inputs) {
  for (double& value : inputs.v) value = std::abs(value);
  return oracle::forward(problem, inputs);
}

}  // namespace

TEMPLATE_TEST_CASE("V2 half and bfloat16 results are rounded once", "[attention][accumulation]", Eigen::half,
                   Eigen::bfloat16) {
  const auto in = test::random_inputs<TestType>({1, 160, 4, 16}, 2);
  // Rounding to nearest errs by half a unit in the last place; accumulation in float by float's own
  // tolerance.
  const double rounding = std::ldexp(1.0, -std::numeric_limits<TestType>::digits);
  for (std::uint64_t rules = 0; rules < test::rule_combinations; ++rules) {
    ra::AttentionConfig config;
    test::set_rules(config, rules);
    config.segment_lengths = {16, 64, 100, 160, 1024};
    config.dilation_rates = {1, 2, 3, 1, 1};
    const oracle::Problem problem = test::to_problem(config, in.q.shape(), in.k.shape());
    const oracle::Inputs inputs = test::to_inputs(in.q.view(), in.k.view(), in.v.view());
    const auto expected = oracle::forward(problem, inputs).out;
    const auto sizes = forward_of_sizes(problem, inputs).out;
    for (const std::string& kernel : ra::available_kernels()) {
      const ra::Context context{.threads = 0, .kernel = kernel};
      const bool rounds_probabilities =
          std::is_same_v<TestType, Eigen::bfloat16> && kernel.ends_with("_bf16");
      for (const std::int64_t ring_size : {1, 8, 160}) {
        config.ring_size = ring_size;
        const ra::Tensor<TestType> out =
            ra::RingDilatedAttentionV2<TestType>(config).forward(context, in.q, in.k, in.v);
        test::Comparison comparison("out", 1);
        for (std::int64_t i = 0; i < out.size(); ++i) {
          const auto at = static_cast<std::size_t>(i);
          const double rounded = std::abs(expected[at]) + (rounds_probabilities ? sizes[at] : 0.0);
          const double allowed = rounding * rounded + test::tolerance_of<float>().out;
          comparison.add((test::to_double(out.data()[i]) - expected[at]) / allowed, 0, {0, 0, 0, i});
        }
        INFO(kernel << ", rules " << rules << ", ring size " << ring_size << ": " << comparison.message());
        CHECK(comparison.passed());
      }
    }
  }
}
