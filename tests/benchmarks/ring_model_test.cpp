// The closed forms behind the table of SCALING.md against the library's own plan.
#include "benchmarks/support/ring_model.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ring_attention/engine/plan_report.hpp>
#include <ring_attention/pattern/make_indices.hpp>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/random_case.hpp"

namespace {

namespace ra = ring_attention;

struct Problem {
  ra::AttentionConfig config;
  std::int64_t tokens, heads, ranks;

  ra::PlanReport report() const {
    const ra::CallShape shape{1, tokens, heads, heads, 1};
    return ra::engine::report_plan(ra::detail::plan_call(config, shape, {}, &ra::make_indices).plan, ranks,
                                   ra::ShardLayout::contiguous);
  }
};

/// Each rule of the plan with lengths, rates and shards that divide each other and that do not.
std::vector<Problem> problems() {
  std::vector<Problem> all;
  const std::vector<std::vector<std::int64_t>> lengths{
      {16, 64, 256}, {7, 50, 1000}, {33, 34, 400}, {1, 90, 5000}};
  const std::vector<std::vector<std::int64_t>> rates{{1, 4, 16}, {2, 3, 130}, {1, 34, 7}, {1, 1, 64}};
  for (std::uint64_t rules = 0; rules < test::rule_combinations; ++rules) {
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      for (const std::int64_t ranks : {1, 3, 8, 16}) {
        for (const std::int64_t tokens : {256, 391, 5}) {
          Problem problem{{}, tokens, 5, ranks};
          test::set_rules(problem.config, rules);
          if (problem.config.causal) continue;
          problem.config.segment_lengths = lengths[i];
          problem.config.dilation_rates = rates[i];
          all.push_back(problem);
        }
      }
    }
  }
  return all;
}

}  // namespace

TEST_CASE("the ring model counts what the plan reports", "[benchmarks]") {
  double remote_pairs = 0, rows = 0;
  for (const Problem& problem : problems()) {
    const benchmarks::RingModel model(problem.config, problem.tokens, problem.heads, problem.ranks);
    const ra::PlanReport report = problem.report();
    INFO(problem.tokens << " tokens, " << problem.ranks << " ranks, w = " << problem.config.segment_lengths[1]
                        << ", query rule " << static_cast<int>(problem.config.query_rule) << ", offset rule "
                        << static_cast<int>(problem.config.offset_rule));
    for (std::int64_t rank = 0; rank < problem.ranks; ++rank) {
      INFO("rank " << rank);
      const ra::MemberReport& member = report.members[static_cast<std::size_t>(rank)];
      double pairs = model.own_pairs(rank), sent = 0, received = 0;
      for (std::int64_t s = 1; s < problem.ranks; ++s) {
        const benchmarks::RingStep step = model.step(rank, s);
        pairs += step.pairs;
        remote_pairs += step.pairs;
        sent += step.rows_sent;
        received += step.rows_received;
        // What a member sends is what the other receives.
        REQUIRE(step.rows_sent == model.step((rank + s) % problem.ranks, s).rows_received);
      }
      REQUIRE(pairs == member.pairs);
      REQUIRE(sent == static_cast<double>(member.rows_sent));
      REQUIRE(model.rows_sent(rank) == static_cast<double>(member.rows_sent));
      REQUIRE(model.traffic(rank).rows == sent);
      REQUIRE((received > 0) == (pairs > model.own_pairs(rank)));
      rows += sent;
    }
    REQUIRE(model.rows_sent(model.busiest_sender()) >= model.rows_sent(problem.ranks - 1));
  }
  CHECK(remote_pairs > 0);
  CHECK(rows > 0);
}

TEST_CASE("the modelled time is the longer of computing and messages at every step", "[benchmarks]") {
  ra::AttentionConfig config;
  config.segment_lengths = {4};
  config.dilation_rates = {1};
  const benchmarks::RingModel model(config, 4, 1,
                                    2);  // 2 tokens each: 4 pairs with own keys, 4 with the other's
  const auto time = [&](double operations, double bytes, double latency, double planning = 0,
                        double packing = 1e9) {
    return benchmarks::model_forward(model, 0, 2, 8, 4, {operations, bytes, latency, planning, packing});
  };
  const auto is = [](double value, double expected) { return std::abs(value - expected) <= 1e-4 * expected; };
  // 4 pairs are 128 operations; the message has 2 rows of 8 keys and 8 values, 128 bytes.
  CHECK(is(time(128, 128e6, 0).seconds, 2.0));     // computing twice
  CHECK(is(time(128e6, 128, 0).seconds, 1.0));     // the message
  CHECK(is(time(128, 64, 0.5).seconds, 2.5 + 1));  // the message, then computing with it
  CHECK(is(time(128, 64, 0.5, 3, 32).seconds, 3 + 4 + 2.5 + 1));
  CHECK(is(time(128, 64, 0.5).compute_seconds, 2.0));
  CHECK(is(time(128, 64, 0.5).communicate_seconds, 2.5));
}
