// unit: values
// Rows without keys, rows with zero keys only, empty tensors, sequences shorter than the ring, huge
// parameters.
#include <cmath>
#include <cstdint>
#include <limits>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <string>

#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/random_case.hpp"
#include "support/tensors.hpp"

namespace ra = ring_attention;

TEMPLATE_TEST_CASE("V2 rows without keys have output 0 and lse -infinity", "[attention][empty]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  // One head with offset 0 of 4: tokens 0, 4, 8 are kept; causal, so that nothing precedes them elsewhere.
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {12};
  config.dilation_rates = {4};
  const auto in = test::random_inputs<TestType>({2, 12, 1, 3}, 1);
  for (const bool causal : {false, true}) {
    config.causal = causal;
    const auto result = ra::RingDilatedAttentionV2<TestType>(config).forward_with_lse(in.q, in.k, in.v);
    for (std::int64_t t = 0; t < 12; ++t) {
      if (t % 4 == 0) {
        CHECK(std::isfinite(result.lse(1, 0, t, 0)));
        continue;
      }
      CHECK(result.lse(1, 0, t, 0) == -std::numeric_limits<double>::infinity());
      for (std::int64_t c = 0; c < 3; ++c) CHECK(test::to_double(result.out(1, t, 0, c)) == 0);
    }
    CHECK(test::check_result(config, in, result) == "");
  }
}

TEST_CASE("V2 a log-sum-exp of 0 is not taken for a row without keys", "[attention][empty]") {
  ra::AttentionConfig config = ra::ring_preset();
  config.segment_lengths = {1};
  config.dilation_rates = {1};
  auto in = test::random_inputs<float>({1, 5, 1, 3}, 1);
  in.q = ra::Tensor<float>(in.q.shape());
  const auto result = ra::RingDilatedAttentionV2<float>(config).forward_with_lse(in.q, in.k, in.v);
  CHECK(test::bitwise_equal(result.out, in.v));
  CHECK(test::bitwise_equal(result.lse, ra::Tensor<float>(1, 1, 5, 1)));
}

TEMPLATE_TEST_CASE("V2 rows that meet zero keys only have output 0 and lse log z", "[attention][empty]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  // Branch 1 has w = 9, r = 2, offset 1: the second segment, token 9 alone, keeps none of ceil(9 / 2) = 5
  // rows.
  ra::AttentionConfig config = ra::ring_preset();
  config.padding_rule = ra::PaddingRule::zero_attended;
  config.segment_lengths = {10, 9};
  config.dilation_rates = {1, 2};
  const auto in = test::random_inputs<TestType>({1, 10, 2, 3}, 2);
  for (const std::int64_t ring_size : {1, 3, 10, 11}) {
    config.ring_size = ring_size;
    config.head_partition = ra::HeadPartition::grouped;
    auto result = ra::RingDilatedAttentionV2<TestType>(config).forward_with_lse(in.q, in.k, in.v);
    CHECK(std::abs(result.lse(0, 1, 9, 0) - std::log(5.0)) < test::tolerance_of<TestType>().lse * 2);
    for (std::int64_t c = 0; c < 3; ++c) CHECK(test::to_double(result.out(0, 9, 1, c)) == 0);
    CHECK(test::check_result(config, in, result) == "");
    // Shared, the weight of that branch counts in the mixing.
    config.head_partition = ra::HeadPartition::shared;
    result = ra::RingDilatedAttentionV2<TestType>(config).forward_with_lse(in.q, in.k, in.v);
    CHECK(test::check_result(config, in, result) == "");
    // Causal, zero keys follow every query: the row is empty.
    config.head_partition = ra::HeadPartition::grouped;
    config.causal = true;
    result = ra::RingDilatedAttentionV2<TestType>(config).forward_with_lse(in.q, in.k, in.v);
    CHECK(result.lse(0, 1, 9, 0) == -std::numeric_limits<double>::infinity());
    CHECK(test::check_result(config, in, result) == "");
    config.causal = false;
  }
}

TEST_CASE("V2 empty tensors give empty results of the right shape", "[attention][empty]") {
  ra::AttentionConfig config = ra::torchscale_preset();
  config.segment_lengths = {4, 8};
  config.dilation_rates = {1, 2};
  for (const std::int64_t ring_size : {1, 3}) {
    config.ring_size = ring_size;
    const ra::RingDilatedAttentionV2<float> attention(config);
    for (const ra::Shape& shape : {ra::Shape{1, 0, 4, 8}, {2, 0, 4, 8}, {0, 5, 4, 8}, {0, 0, 4, 8}}) {
      INFO(ra::to_string(shape));
      const auto in = test::random_inputs<float>(shape, 2);
      const ra::Shape lse_shape{shape[0], 4, shape[1], 1};
      const auto result = attention.forward_with_lse(in.q, in.k, in.v);
      CHECK(result.out.shape() == shape);
      CHECK(result.lse.shape() == lse_shape);
      CHECK(attention.forward(in.q, in.k, in.v).shape() == shape);
      ra::Tensor<float> out(shape), lse(lse_shape);
      CHECK_NOTHROW(attention.forward(in.q.view(), in.k.view(), in.v.view(), out.view()));
      CHECK_NOTHROW(attention.forward(in.q.view(), in.k.view(), in.v.view(), out.view(), lse.view()));
    }
  }
}

TEST_CASE("V2 batch items of length 0 are zero beside others", "[attention][empty]") {
  ra::AttentionConfig config = ra::torchscale_preset();
  config.segment_lengths = {4, 8};
  config.dilation_rates = {1, 2};
  config.ring_size = 2;
  const auto in = test::random_inputs<float>({3, 9, 4, 8}, 2);
  const ra::ForwardOptions options{.lengths = {0, 9, 1}};
  const auto result = ra::RingDilatedAttentionV2<float>(config).forward_with_lse(in.q, in.k, in.v, options);
  CHECK(test::check_result(config, in, result, options) == "");
  CHECK(result.lse(0, 0, 0, 0) == -std::numeric_limits<float>::infinity());
  CHECK(result.out(2, 0, 0, 0) != 0);
  CHECK(result.out(2, 1, 0, 0) == 0);
}

TEST_CASE("V2 the ring may be larger than the sequence", "[attention][empty]") {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  for (std::uint64_t rules = 0; rules < test::rule_combinations; ++rules) {
    ra::AttentionConfig config;
    test::set_rules(config, rules);
    config.segment_lengths = {3, 5, 8};
    config.dilation_rates = {1, 2, 3};
    for (const std::int64_t n : {1, 2, 7}) {
      const auto in = test::random_inputs<float>({2, n, 4, 5}, 2, rules);
      for (const std::int64_t ring_size : {n, n + 1, 3 * n, std::int64_t{1'000'003}, most}) {
        for (const auto layout : {ra::ShardLayout::contiguous, ra::ShardLayout::zigzag}) {
          config.ring_size = ring_size;
          config.shard_layout = layout;
          const auto result = ra::RingDilatedAttentionV2<float>(config).forward_with_lse(in.q, in.k, in.v);
          const std::string failure = test::check_result(config, in, result);
          INFO("rules " << rules << ", n " << n << ", ring size " << ring_size << ": " << failure);
          CHECK(failure.empty());
        }
      }
    }
  }
}

TEST_CASE("V2 segments and rates as large as the type allows", "[attention][empty]") {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  const auto in = test::random_inputs<float>({1, 11, 4, 5}, 4);
  for (std::uint64_t rules = 0; rules < test::rule_combinations; ++rules) {
    ra::AttentionConfig config;
    test::set_rules(config, rules);
    config.ring_size = 3;
    config.segment_lengths = {most, most, 4, 4};
    config.dilation_rates = {1, most, most, 2};
    const auto result = ra::RingDilatedAttentionV2<float>(config).forward_with_lse(in.q, in.k, in.v);
    const std::string failure = test::check_result(config, in, result);
    INFO("rules " << rules << ": " << failure);
    CHECK(failure.empty());
  }
}
