// The model behind the table of SCALING.md: its counts against the library's report, and its time.
#include "benchmarks/support/ring_model.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "benchmarks/support/problems.hpp"
#include "support/catch.hpp"
#include "support/random_case.hpp"

namespace ra = ring_attention;

TEST_CASE("the ring model counts what the plan reports", "[benchmarks]") {
  double rows = 0;
  for (std::uint64_t seed = 0; seed < 2 * test::rule_combinations; ++seed) {
    const test::RandomCase c = test::make_random_case(seed);
    if (c.config.causal) continue;
    INFO(c.describe());
    for (const std::int64_t ranks : {1, 3, 8, 16}) {
      const std::int64_t tokens = c.q[1], heads = c.q[2];
      const benchmarks::RingModel model(c.config, tokens, heads, ranks);
      ra::AttentionConfig config = c.config;
      config.shard_layout = ra::ShardLayout::contiguous;
      const std::vector<ra::MemberReport> members = benchmarks::report_members(config, tokens, heads, ranks);
      double sent = 0, received = 0;
      for (std::int64_t rank = 0; rank < ranks; ++rank) {
        INFO("rank " << rank << " of " << ranks);
        benchmarks::RingStep sum;
        for (const benchmarks::RingStep& step : model.steps(rank)) {
          sum.pairs += step.pairs;
          sum.rows_sent += step.rows_sent;
          received += step.rows_received;
        }
        REQUIRE(sum.pairs == members[static_cast<std::size_t>(rank)].pairs);
        REQUIRE(sum.rows_sent == static_cast<double>(members[static_cast<std::size_t>(rank)].rows_sent));
        sent += sum.rows_sent;
      }
      REQUIRE(sent == received);
      rows += sent;
    }
  }
  CHECK(rows > 0);
}

TEST_CASE("the modelled time is the longer of computing and messages at every step", "[benchmarks]") {
  ra::AttentionConfig config;
  config.segment_lengths = {4};
  config.dilation_rates = {1};
  // 2 tokens each: 4 pairs with own keys, 4 with the other's.
  const auto steps = benchmarks::RingModel(config, 4, 1, 2).steps(0);
  const auto time = [&](double operations, double bytes, double latency, double planning = 0,
                        double packing = 1e9) {
    return benchmarks::model_forward(steps, 8, 4, {operations, bytes, latency, planning, packing});
  };
  const auto is = [](double value, double expected) { return std::abs(value - expected) <= 1e-4 * expected; };
  // 4 pairs are 128 operations; the message has 2 rows of 8 keys and 8 values, 128 bytes.
  CHECK(is(time(128, 128e6, 0).seconds, 2.0));     // computing twice
  CHECK(is(time(128e6, 128, 0).seconds, 1.0));     // the message
  CHECK(is(time(128, 64, 0.5).seconds, 2.5 + 1));  // the message, then computing with it
  CHECK(is(time(128, 64, 0.5, 3, 32).seconds, 3 + 4 + 2.5 + 1));
  CHECK(is(time(128, 64, 0.5).compute_seconds, 2.0));
}
