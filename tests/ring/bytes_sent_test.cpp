// Payload that ring members send, against the contract's rule counted by brute force.
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/distributed.hpp"
#include "support/oracle_adapter.hpp"
#include "support/random_case.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

struct RowsSent {
  std::vector<std::uint64_t> bound;  // by member: every query of the segment counts
  std::vector<std::uint64_t> exact;  // only queries that the query rule serves count
};

/// Member that owns each token, by the definition of the layouts.
std::vector<std::int64_t> owners(std::int64_t n, std::int64_t members, ra::ShardLayout layout) {
  std::vector<std::int64_t> owner;
  const std::int64_t chunks = layout == ra::ShardLayout::zigzag ? 2 * members : members;
  const std::int64_t length = (n + chunks - 1) / chunks;
  for (std::int64_t token = 0; token < n; ++token) {
    const std::int64_t chunk = token / length;
    owner.push_back(chunk < members ? chunk : 2 * members - 1 - chunk);
  }
  return owner;
}

/// For each branch, each kept row (batch item, key/value head, token) and each other member: does its shard
/// hold queries of the row's segment (causal: later ones)?
RowsSent count_rows(const oracle::Problem& p, std::int64_t members, ra::ShardLayout layout) {
  const auto owner = owners(p.tokens, members, layout);
  RowsSent rows{std::vector<std::uint64_t>(static_cast<std::size_t>(members)),
                std::vector<std::uint64_t>(static_cast<std::size_t>(members))};
  for (std::int64_t item = 0; item < p.batches; ++item) {
    const std::int64_t n = p.length(item);
    for (std::int64_t branch = 0; branch < static_cast<std::int64_t>(p.branches.size()); ++branch) {
      for (std::int64_t kv_head = 0; kv_head < p.kv_heads; ++kv_head) {
        std::set<std::int64_t> offsets;
        for (std::int64_t head = 0; head < p.heads; ++head) {
          if (p.kv_head(head) == kv_head && oracle::head_runs_branch(p, head, branch))
            offsets.insert(oracle::offset_of(p, head, branch));
        }
        const oracle::Branch& b = p.branches[static_cast<std::size_t>(branch)];
        for (std::int64_t key = 0; key < n; ++key) {
          const std::int64_t w = std::min(b.segment_length, n);
          const std::int64_t begin = key / w * w;
          const std::int64_t offset = (key - begin) % b.dilation_rate;
          if (offsets.count(offset) == 0) continue;
          std::set<std::int64_t> any, served;
          for (std::int64_t query = begin; query < std::min(begin + w, n); ++query) {
            const std::int64_t member = owner[static_cast<std::size_t>(query)];
            if (member == owner[static_cast<std::size_t>(key)] || (p.causal && query < key)) continue;
            any.insert(member);
            if (p.query_rule == oracle::QueryRule::all || (query - begin) % b.dilation_rate == offset)
              served.insert(member);
          }
          const auto sender = static_cast<std::size_t>(owner[static_cast<std::size_t>(key)]);
          rows.bound[sender] += any.size();
          rows.exact[sender] += served.size();
        }
      }
    }
  }
  return rows;
}

std::uint64_t sum(const std::vector<std::uint64_t>& values) {
  return std::accumulate(values.begin(), values.end(), std::uint64_t{0});
}

/// What members send in forward and backward of a case.
template <class Scalar>
struct Sent {
  explicit Sent(const test::RandomCase& c) {
    const auto in = test::random_inputs<Scalar>(c.q, c.k[2], c.seed);
    const test::DistributedOnThreads<Scalar> attention(c.config);
    const auto result =
        attention.forward_with_lse(in.q, in.k, in.v, ra::ForwardOptions{.lengths = c.lengths});
    forward = attention.bytes_sent();
    (void)attention.backward(in.q, in.k, in.v, result, in.q,
                             ra::BackwardOptions{.lengths = c.lengths, .grad_lse = {}});
    backward = attention.bytes_sent();
  }
  std::vector<std::uint64_t> forward, backward;
};

/// Backward may need the keys twice: the weights of several branches are known after all keys were seen once.
bool needs_second_round(const ra::AttentionConfig& config) {
  return config.mix_gradient == ra::MixGradient::detached &&
         config.head_partition == ra::HeadPartition::shared && config.segment_lengths.size() > 1;
}

template <class Scalar>
void check_case(const test::RandomCase& c) {
  INFO(c.describe());
  const auto problem = test::to_problem(c.config, c.q, c.k, c.lengths);
  const RowsSent rows = count_rows(problem, c.config.ring_size, c.config.shard_layout);
  const Sent<Scalar> sent(c);
  const auto d = static_cast<std::uint64_t>(c.q[3]);
  const std::uint64_t key_bytes = 2 * d * sizeof(Scalar);
  const std::uint64_t gradient_bytes = 2 * d * sizeof(ra::accumulator_t<Scalar>);
  const std::uint64_t rounds = needs_second_round(c.config) ? 2 : 1;
  for (std::size_t member = 0; member < sent.forward.size(); ++member) {
    INFO("member " << member);
    CHECK(sent.forward[member] == rows.exact[member] * key_bytes);
    CHECK(sent.forward[member] <= rows.bound[member] * key_bytes);
  }
  // Gradients go the other way: a member sends those of the rows that it received.
  CHECK(sum(sent.backward) == sum(rows.exact) * (rounds * key_bytes + gradient_bytes));
  CHECK(sum(sent.backward) <= sum(rows.bound) * (rounds * key_bytes + gradient_bytes));
}

test::RandomCase small_case(std::uint64_t seed) {
  test::RandomCase c = test::make_random_case(seed, 2e5);
  c.config.ring_size = 1 + static_cast<std::int64_t>(seed % 8);
  return c;
}

}  // namespace

TEMPLATE_TEST_CASE("members send exactly the rows that remote queries see", "[ring][bytes]", float,
                   Eigen::half, double) {
  int serving_all = 0;
  std::uint64_t sent_anything = 0;
  for (std::uint64_t seed = 0; seed < 2 * test::rule_combinations; ++seed) {
    test::RandomCase c = small_case(seed);
    if (needs_second_round(c.config)) c.config.mix_gradient = ra::MixGradient::exact;
    check_case<TestType>(c);
    const RowsSent rows = count_rows(test::to_problem(c.config, c.q, c.k, c.lengths), c.config.ring_size,
                                     c.config.shard_layout);
    sent_anything += sum(rows.exact);
    if (c.config.query_rule != ra::QueryRule::all) continue;
    ++serving_all;
    CHECK(rows.exact == rows.bound);
  }
  CHECK(serving_all > 0);
  CHECK(sent_anything > 0);
}

TEST_CASE("detached mixing of several branches sends the keys once more in backward", "[ring][bytes]") {
  for (std::uint64_t seed = 0; seed < 2 * test::rule_combinations; ++seed) {
    test::RandomCase c = small_case(seed);
    c.config.mix_gradient = ra::MixGradient::detached;
    if (!needs_second_round(c.config)) continue;
    check_case<float>(c);
  }
}

TEST_CASE("branches whose segments lie inside a shard send nothing", "[ring][bytes]") {
  test::RandomCase c;
  c.q = {2, 96, 4, 8};
  c.k = {2, 96, 2, 8};
  c.config.segment_lengths = {24, 8, 6};
  c.config.dilation_rates = {1, 2, 3};
  c.config.ring_size = 4;
  for (const auto partition : {ra::HeadPartition::grouped, ra::HeadPartition::shared}) {
    for (const bool causal : {false, true}) {
      c.config.head_partition = partition;
      c.config.causal = causal;
      const Sent<float> sent(c);
      CHECK(sent.forward == std::vector<std::uint64_t>(4, 0));
      CHECK(sent.backward == std::vector<std::uint64_t>(4, 0));
    }
  }
}

TEST_CASE("the last member of a causal ring sends nothing, and a ring of one neither", "[ring][bytes]") {
  test::RandomCase c;
  c.q = c.k = {1, 60, 2, 8};
  c.config.segment_lengths = {60};
  c.config.dilation_rates = {1};
  c.config.ring_size = 3;
  c.config.causal = true;
  // 20 rows x 2 heads to two members, then to one.
  CHECK(Sent<float>(c).forward == std::vector<std::uint64_t>{40 * 2 * 64, 40 * 64, 0});
  c.config.ring_size = 1;
  CHECK(Sent<float>(c).backward == std::vector<std::uint64_t>{0});
}

TEST_CASE("the plan report counts the rows that are sent", "[ring][bytes]") {
  for (const auto layout : {ra::ShardLayout::contiguous, ra::ShardLayout::zigzag}) {
    for (std::uint64_t rules = 0; rules < test::rule_combinations; ++rules) {
      ra::AttentionConfig config;
      test::set_rules(config, rules);
      config.segment_lengths = {17, 50, 100};
      config.dilation_rates = {1, 3, 4};
      config.ring_size = 4;
      config.shard_layout = layout;
      ra::ThreadRing ring(4);
      std::vector<std::vector<std::uint64_t>> reported(4);
      test::run_together(4, [&](int rank) {
        ra::ThreadCommunicator communicator(ring, rank);
        const ra::RingDistributedDilatedAttention<float, ra::ThreadCommunicator> member(config, communicator);
        for (const ra::MemberReport& of : member.plan_report(97, 6, 3).members)
          reported[static_cast<std::size_t>(rank)].push_back(static_cast<std::uint64_t>(of.rows_sent));
      });
      const RowsSent rows = count_rows(test::to_problem(config, {1, 97, 6, 4}, {1, 97, 3, 4}), 4, layout);
      INFO("rules " << rules);
      for (const auto& by_member : reported) CHECK(by_member == rows.exact);
    }
  }
}
