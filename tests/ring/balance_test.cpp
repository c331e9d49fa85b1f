// How evenly causal work lies on the members, by layout and segment length.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ring_attention/attention/ring_distributed_dilated_attention.hpp>
#include <ring_attention/attention/true_ring_dilated_attention.hpp>
#include <ring_attention/ring/thread_communicator.hpp>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"
#include "support/distributed.hpp"
#include "support/error_text.hpp"
#include "support/oracle_adapter.hpp"
#include "support/random_case.hpp"

namespace {

namespace ra = ring_attention;

// They are the same types whatever instruction set a unit is compiled for.
static_assert(std::is_same_v<ra::PlanReport, ra::RING_ATTENTION_NAMESPACE::PlanReport>);
static_assert(std::is_same_v<ra::MemberReport, ra::RING_ATTENTION_NAMESPACE::MemberReport>);

ra::PlanReport report(ra::AttentionConfig config, int members, ra::ShardLayout layout, std::int64_t n,
                      std::int64_t heads, std::int64_t kv_heads) {
  config.shard_layout = layout;
  ra::ThreadRing ring(members);
  ra::PlanReport result;
  test::run_together(members, [&](int rank) {
    ra::ThreadCommunicator communicator(ring, rank);
    const ra::RingDistributedDilatedAttention<float, ra::ThreadCommunicator> member(config, communicator);
    if (rank == 0) result = member.plan_report(n, heads, kv_heads);
  });
  return result;
}

double imbalance(std::int64_t w, std::int64_t r, std::int64_t n, int members, ra::ShardLayout layout,
                 bool causal = true) {
  ra::AttentionConfig config;
  config.segment_lengths = {w};
  config.dilation_rates = {r};
  config.causal = causal;
  return report(config, members, layout, n, 1, 1).largest_over_mean;
}

constexpr auto contiguous = ra::ShardLayout::contiguous;
constexpr auto zigzag = ra::ShardLayout::zigzag;

}  // namespace

TEST_CASE("zigzag balances causal dense work where contiguous shards do not", "[ring][balance]") {
  for (const std::int64_t n : {4096, 4099, 16384}) {
    for (const int members : {2, 4, 8}) {
      INFO("n " << n << ", members " << members);
      CHECK(imbalance(n, 1, n, members, zigzag) <= 1.05);
      CHECK(imbalance(n, 1, n, members, contiguous) > 1.05);
      // The last member has nearly 2 - 1/P times the mean.
      CHECK(std::abs(imbalance(n, 1, n, members, contiguous) - (2 - 1.0 / members)) < 0.02);
      CHECK(imbalance(n, 4, n, members, zigzag) <= 1.05);
    }
  }
}

TEST_CASE("segments inside chunks are balanced under either layout", "[ring][balance]") {
  for (const int members : {2, 4, 8}) {
    INFO("members " << members);
    CHECK(std::abs(imbalance(256, 1, 4096, members, contiguous) - (1)) < 1e-9);
    CHECK(std::abs(imbalance(256, 1, 4096, members, zigzag) - (1)) < 1e-9);
    CHECK(std::abs(imbalance(4096, 1, 4096, members, contiguous, false) - (1)) < 1e-9);
    CHECK(std::abs(imbalance(4096, 1, 4096, members, zigzag, false) - (1)) < 1e-9);
  }
}

TEST_CASE("segments of one or two shards are balanced by zigzag", "[ring][balance]") {
  for (const int members : {2, 4, 8}) {
    const std::int64_t n = 4096, shard = n / members;
    INFO("members " << members);
    CHECK(std::abs(imbalance(shard, 1, n, members, contiguous) - 1) < 1e-9);
    CHECK(imbalance(shard, 1, n, members, zigzag) <= 1.05);
    // A contiguous member holds the first, cheap half of a segment or the second, dear one.
    CHECK(std::abs(imbalance(2 * shard, 1, n, members, contiguous) - 1.5) < 0.01);
    CHECK(imbalance(2 * shard, 1, n, members, zigzag) <= 1.05);
  }
}

TEST_CASE("segments that do not fit the shards can be worse balanced by zigzag", "[ring][balance]") {
  const std::int64_t n = 4096;
  for (const int members : {2, 4, 8}) {
    INFO("members " << members);
    const std::int64_t w = n / members * 5 / 4;
    CHECK(imbalance(w, 1, n, members, zigzag) > imbalance(w, 1, n, members, contiguous));
  }
}

TEST_CASE("the report counts the pairs that the definition gives", "[ring][balance]") {
  constexpr std::int64_t n = 61, heads = 6, kv_heads = 3;
  constexpr int members = 3;
  for (const auto layout : {contiguous, zigzag}) {
    for (std::uint64_t rules = 0; rules < test::rule_combinations; ++rules) {
      ra::AttentionConfig config;
      test::set_rules(config, rules);
      config.segment_lengths = {7, 30, 61};
      config.dilation_rates = {1, 3, 4};
      const ra::PlanReport found = report(config, members, layout, n, heads, kv_heads);
      REQUIRE(found.members.size() == members);
      const auto problem = test::to_problem(config, {1, n, heads, 8}, {1, n, kv_heads, 8});
      double total = 0, largest = 0;
      std::int64_t tokens = 0;
      for (const ra::MemberReport& member : found.members) {
        double pairs = 0;
        for (const auto& [begin, end] : member.tokens) {
          tokens += end - begin;
          for (std::int64_t t = begin; t < end; ++t) {
            for (std::int64_t head = 0; head < heads; ++head) {
              for (std::int64_t branch = 0; branch < 3; ++branch) {
                pairs += static_cast<double>(oracle::visible_keys(problem, 0, head, branch, t).tokens.size());
              }
            }
          }
        }
        INFO("rules " << rules);
        CHECK(member.pairs == pairs);
        total += pairs;
        largest = std::max(largest, pairs);
      }
      CHECK(tokens == n);
      CHECK(std::abs(found.largest_over_mean - largest * members / total) < 1e-12);
    }
  }
}

TEST_CASE("TrueRing reports the plan that ranks of a communicator report", "[ring][balance]") {
  const auto check_same = [](const ra::PlanReport& a, const ra::PlanReport& b) {
    REQUIRE(a.members.size() == b.members.size());
    for (std::size_t member = 0; member < a.members.size(); ++member) {
      CHECK(a.members[member].tokens == b.members[member].tokens);
      CHECK(a.members[member].pairs == b.members[member].pairs);
      CHECK(a.members[member].rows_sent == b.members[member].rows_sent);
    }
    CHECK(a.largest_over_mean == b.largest_over_mean);
  };
  for (const auto layout : {contiguous, zigzag}) {
    ra::AttentionConfig config;
    config.segment_lengths = {16, 96};
    config.dilation_rates = {1, 3};
    config.causal = true;
    config.ring_size = 4;
    config.shard_layout = layout;
    const ra::TrueRingDilatedAttention<float> attention(config);
    const ra::PlanReport told = attention.plan_report(97, 6, 3);
    CHECK(told.members.size() == 4);
    CHECK(told.members[0].rows_sent > 0);
    check_same(told, report(config, 4, layout, 97, 6, 3));
    check_same(attention.plan_report(97), attention.plan_report(97, 2, 2));  // one head per branch
    CHECK(test::error_text([&] { (void)attention.plan_report(-1); }) ==
          "total_sequence_length = -1: must not be negative");
    CHECK(test::error_text([&] { (void)attention.plan_report(97, 4, 3); }) ==
          "heads = 4: must be a multiple of kv_heads = 3");
    CHECK(test::error_text([&] { (void)attention.plan_report(97, 4, 0); }) ==
          "kv_heads = 0: must be positive");
  }
}
