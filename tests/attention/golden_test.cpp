// unit: values
// Forward against the reference outputs in tests/data, at several ring sizes and with every cache policy.
#include "support/golden.hpp"

#include <cstdint>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <ring_attention/pattern/cache_policy.hpp>
#include <string>

#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/compare.hpp"
#include "support/oracle_adapter.hpp"
#include "support/tensors.hpp"

namespace ra = ring_attention;

TEMPLATE_TEST_CASE("V2 forward: reference outputs at every ring size, with every cache policy",
                   "[attention][golden]", float, double, Eigen::half, Eigen::bfloat16) {
  for (const std::string& name : test::golden_names()) {
    const test::Golden golden = test::load_golden(name);
    const test::CallInputs<TestType> in{test::convert<TestType>(golden["q"]),
                                        test::convert<TestType>(golden["k"]),
                                        test::convert<TestType>(golden["v"])};
    for (const std::int64_t ring_size : {1, 2, 3, 4, 7}) {
      for (const auto layout : {ra::ShardLayout::contiguous, ra::ShardLayout::zigzag}) {
        ra::AttentionConfig config = golden.config;
        config.ring_size = ring_size;
        config.shard_layout = layout;
        INFO(name << ", ring size " << ring_size << ", zigzag " << (layout == ra::ShardLayout::zigzag));
        const auto result = ra::RingDilatedAttentionV2<TestType>(config).forward_with_lse(in.q, in.k, in.v);
        const std::string failure = test::check_result(config, in, result);
        INFO(failure);
        CHECK(failure.empty());
        if constexpr (sizeof(TestType) >= sizeof(float)) {  // the others round the inputs of the reference
          const auto comparison =
              test::compare_all("out", test::to_float64(std::as_const(result.out).view()),
                                test::to_float64(golden["out"].view()), test::tolerance_of<float>().out);
          INFO(comparison.message());
          CHECK(comparison.passed());
        }
        const ra::RingDilatedAttentionV2<TestType, ra::use_local_cache> local(config);
        const ra::RingDilatedAttentionV2<TestType, ra::use_no_cache> uncached(config);
        for (const auto& other :
             {local.forward_with_lse(in.q, in.k, in.v), local.forward_with_lse(in.q, in.k, in.v),
              uncached.forward_with_lse(in.q, in.k, in.v)}) {
          CHECK(test::bitwise_equal(other.out, result.out));
          CHECK(test::bitwise_equal(other.lse, result.lse));
        }
      }
    }
  }
}
