// unit: values
// Scores of +-10,000: nothing overflows, within a chunk or where chunks, branches and zero keys merge.
#include <cmath>
#include <cstdint>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <string>

#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/random_case.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

/// Queries and keys whose scores are exactly +-10,000 in every scalar type: `positive(token)` tells the sign.
template <class Scalar, class Sign>
test::CallInputs<Scalar> inputs_with_signs(const ra::Shape& shape, std::int64_t kv_heads,
                                           const Sign& positive) {
  test::CallInputs<Scalar> in = test::random_inputs<Scalar>(shape, kv_heads);
  in.q = ra::Tensor<Scalar>(in.q.shape());
  in.k = ra::Tensor<Scalar>(in.k.shape());
  for (std::int64_t b = 0; b < shape[0]; ++b) {
    for (std::int64_t t = 0; t < shape[1]; ++t) {
      for (std::int64_t head = 0; head < shape[2]; ++head) in.q(b, t, head, 0) = Scalar(100.0F);
      for (std::int64_t head = 0; head < kv_heads; ++head) {
        in.k(b, t, head, 0) = Scalar(positive(t) ? 100.0F : -100.0F);
      }
    }
  }
  return in;
}

ra::AttentionConfig branches(std::uint64_t rules) {
  ra::AttentionConfig config;
  test::set_rules(config, rules);
  config.segment_lengths = {13, 64, 200};
  config.dilation_rates = {1, 3, 5};
  config.scale = 1;
  return config;
}

/// Scores of one magnitude leave nothing to rounding, so the tolerances are those of small scores.
template <class Scalar, class Sign>
void check_signs(const char* name, const Sign& positive) {
  const auto in = inputs_with_signs<Scalar>({1, 97, 6, 5}, 3, positive);
  for (std::uint64_t rules = 0; rules < test::rule_combinations; ++rules) {
    ra::AttentionConfig config = branches(rules);
    for (const std::int64_t ring_size : {1, 2, 5}) {
      config.ring_size = ring_size;
      const auto result = ra::RingDilatedAttentionV2<Scalar>(config).forward_with_lse(in.q, in.k, in.v);
      const std::string failure = test::check_result(config, in, result, {}, 1.0);
      INFO(name << ", rules " << rules << ", ring size " << ring_size << ": " << failure);
      CHECK(failure.empty());
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("V2 extremes: scores of one huge magnitude", "[attention][extreme]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_signs<TestType>("all large", [](std::int64_t) { return true; });
  check_signs<TestType>("all small", [](std::int64_t) { return false; });
  check_signs<TestType>("alternating", [](std::int64_t t) { return t % 2 == 0; });
  check_signs<TestType>("rising", [](std::int64_t t) { return t >= 50; });
  check_signs<TestType>("falling", [](std::int64_t t) { return t < 50; });
  check_signs<TestType>("one large", [](std::int64_t t) { return t == 31; });
}

TEMPLATE_TEST_CASE("V2 extremes: random scores up to 10,000", "[attention][extreme]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  for (std::uint64_t rules = 0; rules < test::rule_combinations; ++rules) {
    auto in = test::random_inputs<TestType>({1, 97, 6, 5}, 3, rules);
    ra::AttentionConfig config = branches(rules);
    config.ring_size = 1 + static_cast<std::int64_t>(rules % 4);
    config.scale = rules % 2 == 0 ? 1000 : -1000;
    const auto result = ra::RingDilatedAttentionV2<TestType>(config).forward_with_lse(in.q, in.k, in.v);
    const std::string failure = test::check_result(config, in, result);
    INFO("rules " << rules << ": " << failure);
    CHECK(failure.empty());
    for (std::int64_t i = 0; i < result.out.size(); ++i) {
      // A weighted mean of values, each of magnitude below 6.
      if (!(std::abs(test::to_double(result.out.data()[i])) < 6))
        FAIL("element " << i << " is no mean of values");
    }
  }
}

TEST_CASE("V2 extremes: branches far apart do not disturb each other", "[attention][extreme]") {
  // Branch 0 gives each query its own key only, at -10,000; branch 1 sees keys 0, 2, 4, ..., of which key 4
  // scores +10,000: it takes all the weight.
  ra::AttentionConfig config = ra::ring_preset();
  config.head_partition = ra::HeadPartition::shared;
  config.segment_lengths = {1, 64};
  config.dilation_rates = {1, 2};
  config.offset_rule = ra::OffsetRule::by_head;
  config.scale = 1;
  const auto in = inputs_with_signs<float>({1, 33, 1, 3}, 1, [](std::int64_t t) { return t == 4; });
  for (const std::int64_t ring_size : {1, 2, 3, 11, 40}) {
    config.ring_size = ring_size;
    const auto result = ra::RingDilatedAttentionV2<float>(config).forward_with_lse(in.q, in.k, in.v);
    for (std::int64_t t = 0; t < 33; ++t) {
      const double copies = t == 4 ? 2 : 1;  // both branches see key 4 from there
      CHECK(std::abs(result.lse(0, 0, t, 0) - (10'000 + std::log(copies))) < 2e-3);
      for (std::int64_t c = 0; c < 3; ++c) CHECK(result.out(0, t, 0, c) == in.v(0, 4, 0, c));
    }
  }
}
