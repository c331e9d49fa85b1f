// suites: compilers
// unit: members
// BlockSparseRingDistributedDilatedAttention: against the oracle, what travels, what is refused.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <ring_attention/attention/block_sparse_ring_dilated_attention.hpp>
#include <ring_attention/attention/block_sparse_ring_distributed_dilated_attention.hpp>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "support/block_case.hpp"
#include "support/catch.hpp"
#include "support/distributed.hpp"
#include "support/effort.hpp"
#include "support/faulty_communicator.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;
using namespace std::chrono_literals;

constexpr std::uint64_t cases_per_type = 96;  // the patterns, causal and not, 12 times each

template <class Scalar>
void check_seed(std::uint64_t seed) {
  const test::BlockCase c = test::make_block_case(seed);
  INFO("replay with RING_ATTENTION_TEST_SEED=" << seed << '\n' << c.describe());
  const test::BlockSparseOnThreads<Scalar> attention(c.call.config, c.sparse);
  const std::string forward = test::check_block_forward<Scalar>(c, attention);
  INFO(forward);
  CHECK(forward.empty());
  const std::string backward = test::check_block_backward<Scalar>(c, attention);
  INFO(backward);
  CHECK(backward.empty());
}

/// Every type has its own seeds, which the class over whole tensors does not have.
template <class Scalar>
constexpr std::uint64_t first_seed() {
  if constexpr (std::is_same_v<Scalar, float>) return 10000;
  if constexpr (std::is_same_v<Scalar, double>) return 10000 + cases_per_type;
  if constexpr (std::is_same_v<Scalar, Eigen::half>) return 10000 + 2 * cases_per_type;
  return 10000 + 3 * cases_per_type;
}

/// Rows that each member sends: for every kept row (item, key/value head, token), each other member that
/// holds a query which sees it.
std::vector<std::uint64_t> count_rows(const oracle::BlockProblem& p, std::int64_t members,
                                      ra::ShardLayout layout) {
  const auto ranges = ra::shard_ranges(p.rows.tokens, members, layout);
  std::vector<std::size_t> owner(static_cast<std::size_t>(p.rows.tokens));
  for (std::size_t member = 0; member < ranges.size(); ++member) {
    for (const auto& [begin, end] : ranges[member]) {
      for (std::int64_t token = begin; token < end; ++token) owner[static_cast<std::size_t>(token)] = member;
    }
  }
  std::vector<std::uint64_t> rows(static_cast<std::size_t>(members));
  for (std::int64_t item = 0; item < p.rows.batches; ++item) {
    const std::int64_t n = p.rows.length(item);
    for (std::int64_t key = 0; key < n; ++key) {
      std::set<std::size_t> receivers;
      for (std::int64_t query = p.rows.causal ? key : 0; query < n; ++query) {
        if (oracle::active(p, query / p.block_size, key / p.block_size)) {
          receivers.insert(owner[static_cast<std::size_t>(query)]);
        }
      }
      receivers.erase(owner[static_cast<std::size_t>(key)]);
      rows[owner[static_cast<std::size_t>(key)]] +=
          receivers.size() * static_cast<std::uint64_t>(p.rows.kv_heads);
    }
  }
  return rows;
}

std::uint64_t sum(const std::vector<std::uint64_t>& values) {
  return std::accumulate(values.begin(), values.end(), std::uint64_t{0});
}

template <class Scalar>
std::uint64_t check_bytes(const test::BlockCase& c) {
  INFO(c.describe());
  const auto rows = count_rows(test::to_block_problem(c.call, c.sparse), c.call.config.ring_size,
                               c.call.config.shard_layout);
  const auto in = test::random_inputs<Scalar>(c.call.q, c.call.k[2], c.call.seed);
  const test::BlockSparseOnThreads<Scalar> attention(c.call.config, c.sparse);
  const ra::ForwardOptions options{.lengths = c.call.lengths};
  const auto result = attention.forward_with_lse(in.q, in.k, in.v, options);
  const auto d = static_cast<std::uint64_t>(c.call.q[3]);
  const std::uint64_t key_bytes = 2 * d * sizeof(Scalar);
  for (std::size_t member = 0; member < rows.size(); ++member) {
    CHECK(attention.bytes_sent()[member] == rows[member] * key_bytes);
  }
  (void)attention.backward(in.q, in.k, in.v, result, in.q, {.lengths = c.call.lengths, .grad_lse = {}});
  const std::uint64_t gradient_bytes = 2 * d * sizeof(ra::accumulator_t<Scalar>);
  CHECK(sum(attention.bytes_sent()) == sum(rows) * (key_bytes + gradient_bytes));
  return sum(rows);
}

ra::AttentionConfig three_members() {
  ra::AttentionConfig config;
  config.segment_lengths = {16};
  config.dilation_rates = {1};
  config.ring_size = 3;
  return config;
}

/// The one text with which all three members refuse to be made or to run forward on 24 tokens.
std::string refusal(const std::function<void(int, ra::BlockSparseConfig&)>& change) {
  ra::ThreadRing ring(3, {.timeout = 60s});
  const auto ends = test::run_members(3, [&](int rank) {
    ra::ThreadCommunicator communicator(ring, rank);
    ra::BlockSparseConfig sparse{
        .pattern = ra::BlockPattern::custom, .block_size = 4, .blocks = {{0, 0}, {5, 1}}};
    change(rank, sparse);
    const ra::BlockSparseRingDistributedDilatedAttention<float, ra::ThreadCommunicator> member(
        three_members(), sparse, communicator);
    const ra::Tensor<float> q(1, 8, 2, 8);
    (void)member.forward(q, q, q, 24);
  });
  for (const auto& end : ends) CHECK(test::describe(end) == test::describe(ends[0]));
  CHECK(ring.failed_rank() == -1);
  return test::describe(ends[0]);
}

}  // namespace

TEMPLATE_TEST_CASE("Block-sparse over a ring: random calls agree with the oracle",
                   "[attention][block_sparse][ring][property]", float, double, Eigen::half, Eigen::bfloat16) {
  if (const char* replay = std::getenv("RING_ATTENTION_TEST_SEED")) {
    check_seed<TestType>(std::strtoull(replay, nullptr, 10));
    return;
  }
  const test::CaseRange cases = test::random_cases(cases_per_type);
  for (std::uint64_t i = cases.begin; i < cases.end; ++i) check_seed<TestType>(first_seed<TestType>() + i);
}

TEMPLATE_TEST_CASE("Block-sparse over a ring: members send exactly the rows that remote blocks list",
                   "[attention][block_sparse][ring][bytes]", float, Eigen::bfloat16) {
  std::uint64_t rows = 0;
  for (std::uint64_t seed = 20000; seed < 20064; ++seed) {
    test::BlockCase c = test::make_block_case(seed);
    c.call.config.ring_size = 1 + static_cast<std::int64_t>(seed % 8);
    rows += check_bytes<TestType>(c);
  }
  CHECK(rows > 0);
}

TEST_CASE("Block-sparse over a ring: blocks within shards send nothing",
          "[attention][block_sparse][ring][bytes]") {
  ra::AttentionConfig config = three_members();
  const ra::BlockSparseConfig sparse{
      .pattern = ra::BlockPattern::local_window, .block_size = 10, .window = 0};
  const auto in = test::random_inputs<float>({2, 90, 2, 8}, 2);
  const test::BlockSparseOnThreads<float> attention(config, sparse);
  const auto result = attention.forward_with_lse(in.q, in.k, in.v);
  CHECK(sum(attention.bytes_sent()) == 0);
  (void)attention.backward(in.q, in.k, in.v, result, in.q);
  CHECK(sum(attention.bytes_sent()) == 0);
}

TEMPLATE_TEST_CASE("Block-sparse over a ring: forward and backward repeat bit by bit",
                   "[attention][block_sparse][ring]", float, double, Eigen::half, Eigen::bfloat16) {
  const auto in = test::random_inputs<TestType>({2, 150, 4, 16}, 2);
  const auto grad_out = test::random_tensor<TestType>(in.q.shape(), 9);
  const ra::BlockSparseConfig sparse{
      .pattern = ra::BlockPattern::global_local, .block_size = 8, .window = 20, .global_tokens = 4};
  for (const auto layout : {ra::ShardLayout::contiguous, ra::ShardLayout::zigzag}) {
    ra::AttentionConfig config = three_members();
    config.causal = layout == ra::ShardLayout::zigzag;
    config.shard_layout = layout;
    for (const int threads : {1, 3}) {
      const test::ThreadScope scope(threads);
      const test::BlockSparseOnThreads<TestType> attention(config, sparse);
      const auto result = attention.forward_with_lse(in.q, in.k, in.v);
      const auto grads = attention.backward(in.q, in.k, in.v, result, grad_out);
      for (int repeat = 0; repeat < 5; ++repeat) {
        const auto again = attention.forward_with_lse(in.q, in.k, in.v);
        CHECK(test::bitwise_equal(again.out, result.out));
        CHECK(test::bitwise_equal(again.lse, result.lse));
        const auto grads_again = attention.backward(in.q, in.k, in.v, result, grad_out);
        CHECK(test::bitwise_equal(grads_again.q, grads.q));
        CHECK(test::bitwise_equal(grads_again.k, grads.k));
        CHECK(test::bitwise_equal(grads_again.v, grads.v));
      }
    }
  }
}

TEST_CASE("Block-sparse over a ring: lists are shared with the class over whole tensors",
          "[attention][block_sparse][ring]") {
  ra::clear_pattern_cache();
  const ra::BlockSparseConfig sparse{.pattern = ra::BlockPattern::global_local, .block_size = 8};
  const auto in = test::random_inputs<float>({1, 60, 2, 8}, 2);
  const auto whole =
      ra::BlockSparseRingDilatedAttention<float>(three_members(), sparse).forward_with_lse(in.q, in.k, in.v);
  const auto before = ra::get_global_pattern_cache().stats();
  CHECK(before.entries == 1);
  const auto ring =
      test::BlockSparseOnThreads<float>(three_members(), sparse).forward_with_lse(in.q, in.k, in.v);
  const auto after = ra::get_global_pattern_cache().stats();
  CHECK(after.entries == 1);
  CHECK(after.misses == before.misses);
  CHECK(after.hits == before.hits + 3);
  for (std::int64_t i = 0; i < whole.out.size(); ++i) {
    CHECK(ring.out.data()[i] == Approx(whole.out.data()[i]).margin(2e-5));
  }
  const auto local = test::BlockSparseOnThreads<float, ra::use_local_cache>(three_members(), sparse)
                         .forward_with_lse(in.q, in.k, in.v);
  const auto none = test::BlockSparseOnThreads<float, ra::use_no_cache>(three_members(), sparse)
                        .forward_with_lse(in.q, in.k, in.v);
  CHECK(test::bitwise_equal(ring.out, local.out));
  CHECK(test::bitwise_equal(ring.out, none.out));
}

TEST_CASE("Block-sparse over a ring: members with other or invalid lists refuse, naming rank and field",
          "[attention][block_sparse][ring][disagreement]") {
  CHECK(refusal([](int, ra::BlockSparseConfig&) {}) == "returned");
  CHECK(refusal([](int rank, ra::BlockSparseConfig& sparse) {
          if (rank == 2) sparse.blocks = {{5, 1}, {0, 0}, {5, 1}};  // the same pairs
        }) == "returned");
  const auto names = [](const std::string& start, const std::function<void(ra::BlockSparseConfig&)>& change) {
    const std::string text = refusal([&](int rank, ra::BlockSparseConfig& sparse) {
      if (rank == 2) change(sparse);
    });
    INFO(text);
    CHECK(text.starts_with("invalid_argument: " + start));
  };
  names("block_size on rank 2 = 5", [](auto& sparse) { sparse.block_size = 5; });
  names("window on rank 2 = 1", [](auto& sparse) { sparse.window = 1; });
  names("global_tokens on rank 2 = 1", [](auto& sparse) { sparse.global_tokens = 1; });
  names("block-sparse dilation_rates on rank 2 = {9}", [](auto& sparse) { sparse.dilation_rates = {9}; });
  names("blocks on rank 2 = ", [](auto& sparse) { sparse.blocks[1].key = 2; });
  names("pattern on rank 2 = ", [](auto& sparse) {
    sparse.pattern = ra::BlockPattern::local_window;
    sparse.blocks.clear();
  });
  names("rank 2: block_size = 0", [](auto& sparse) { sparse.block_size = 0; });
  CHECK(refusal([](int, ra::BlockSparseConfig& sparse) {
          sparse.blocks.push_back({6, 0});
        }) ==
        "invalid_argument: rank 0: blocks[2].query = 6: must be below ceil(n / block_size) = 6 with n = 24");
}

TEST_CASE("Block-sparse over a ring: the plan reports the work and traffic of the lists",
          "[attention][block_sparse][ring]") {
  ra::AttentionConfig config = three_members();
  config.causal = true;
  const ra::BlockSparseConfig sparse{.pattern = ra::BlockPattern::local_window, .block_size = 4, .window = 4};
  ra::ThreadRing ring(3, {.timeout = 60s});
  const auto ends = test::run_members(3, [&](int rank) {
    ra::ThreadCommunicator communicator(ring, rank);
    const ra::BlockSparseRingDistributedDilatedAttention<float, ra::ThreadCommunicator> member(config, sparse,
                                                                                               communicator);
    const ra::PlanReport report = member.plan_report(24);
    // 8 tokens each: two diagonal blocks of 4 * 5 / 2 pairs, and the 16 pairs of each block before one.
    if (report.members.at(0).pairs != 36 || report.members.at(1).pairs != 52 ||
        report.members.at(2).pairs != 52) {
      throw std::runtime_error("pairs");
    }
    if (report.members.at(0).rows_sent != 4 || report.members.at(1).rows_sent != 4 ||
        report.members.at(2).rows_sent != 0) {
      throw std::runtime_error("rows");
    }
  });
  for (const auto& end : ends) CHECK(test::describe(end) == "returned");
}
