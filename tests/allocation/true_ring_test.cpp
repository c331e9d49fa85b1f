// Memory of one member of a ring, and what an allocation that fails on a member does.
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
#include <optional>
#include <ring_attention/attention/block_sparse_ring_distributed_dilated_attention.hpp>
#include <ring_attention/attention/ring_distributed_dilated_attention.hpp>
#include <ring_attention/attention/true_ring_dilated_attention.hpp>
#include <ring_attention/ring/thread_communicator.hpp>
#include <thread>
#include <utility>

#include "allocation/counting.hpp"
#include "support/catch.hpp"
#include "support/tensors.hpp"
#include "support/threads.hpp"

namespace {

namespace ra = ring_attention;

struct Peaks {
  double forward, backward;
};

/// The most that a member (other than the caller's, which also holds the whole gradients) holds in a call.
template <class Scalar>
Peaks member_peaks(ra::AttentionConfig config, std::int64_t members, const test::CallInputs<Scalar>& in) {
  config.ring_size = members;
  const ra::TrueRingDilatedAttention<Scalar> attention(config);
  test::reset_peak();
  const auto result = attention.forward_with_lse(in.q, in.k, in.v);
  const auto forward = static_cast<double>(test::peak_of_other_threads());
  test::reset_peak();
  (void)attention.backward(in.q, in.k, in.v, result, in.q);
  return {forward, static_cast<double>(test::peak_of_other_threads())};
}

template <class Scalar>
void check_halves(const ra::AttentionConfig& config, const test::CallInputs<Scalar>& in) {
  const Peaks four = member_peaks(config, 4, in);
  const Peaks eight = member_peaks(config, 8, in);
  INFO("forward " << four.forward << " -> " << eight.forward << ", backward " << four.backward << " -> "
                  << eight.backward);
  CHECK(four.forward > 100'000);
  CHECK(eight.forward < four.forward * 0.5 * 1.15);
  CHECK(eight.forward > four.forward * 0.5 * 0.85);
  CHECK(eight.backward < four.backward * 0.5 * 1.15);
  CHECK(eight.backward > four.backward * 0.5 * 0.85);
}

/// Runs body(communicator) for the two members of a ring, of which the second gets no block of `limit` bytes
/// or more: both must throw, and the first not because it waited in vain.
template <class Body>
void check_second_without_memory(std::size_t limit, const Body& body) {
  INFO("limit " << limit);
  ra::ThreadRing ring(2, {.timeout = std::chrono::seconds(60)});
  std::array<std::exception_ptr, 2> errors;
  const auto run = [&](int rank) {
    ra::ThreadCommunicator communicator(ring, rank);
    try {
      body(communicator);
    } catch (...) {
      errors[static_cast<std::size_t>(rank)] = std::current_exception();
    }
  };
  std::atomic<bool> refusing{false};
  std::thread second([&] {
    while (!refusing) std::this_thread::yield();
    run(1);
  });
  {
    const test::RefuseAllocations refuse(limit, /*on_other_threads_only=*/true);
    refusing = true;
    run(0);
    second.join();
  }
  CHECK(errors[1] != nullptr);
  REQUIRE(errors[0] != nullptr);
  try {
    std::rethrow_exception(errors[0]);
  } catch (const ra::PeerLost& lost) {
    FAIL_CHECK(lost.what());
  } catch (const std::exception&) {
    // Which one depends on what there was no memory for.
  }
}

/// Its text needs no memory, unless it is copied.
struct WordyError : std::exception {
  const char* what() const noexcept override { return "a text that is too long to lie within a std::string"; }
};

}  // namespace

TEST_CASE("a member's memory halves when the members double: sparse branches", "[allocation][ring]") {
  // Mostly the states of a member's own rows: 16 MiB and 8 MiB, beside at most 2 MiB that do not depend on n.
  ra::AttentionConfig config;
  config.segment_lengths = {128, 16384};
  config.dilation_rates = {16, 1024};
  const auto in = test::random_inputs<float>({1, 16384, 16, 64}, 4);
  check_halves(config, in);
  config.shard_layout = ra::ShardLayout::zigzag;
  config.causal = true;
  check_halves(config, in);
}

TEST_CASE("a member's memory halves when the members double: dense work", "[allocation][ring]") {
  // Mostly the keys and values of two other members.
  ra::AttentionConfig config;
  config.segment_lengths = {16384};
  config.dilation_rates = {2};
  config.query_rule = ra::QueryRule::dilated;
  check_halves(config, test::random_inputs<Eigen::half>({1, 16384, 1, 16}, 1));
}

TEST_CASE("an allocation that fails on one member ends the call on all", "[allocation][ring]") {
  ra::AttentionConfig config;
  config.segment_lengths = {4096};
  config.dilation_rates = {4};
  config.ring_size = 5;
  const ra::TrueRingDilatedAttention<float> attention(config);
  const auto in = test::random_inputs<float>({1, 4096, 2, 16}, 2);
  const auto expected = attention.forward_with_lse(in.q, in.k, in.v);
  for (const std::size_t limit : {std::size_t{1} << 12, std::size_t{1} << 14, std::size_t{1} << 16}) {
    INFO("limit " << limit);
    const auto start = std::chrono::steady_clock::now();
    bool out_of_memory = false;
    try {
      const test::RefuseAllocations refuse(limit, /*on_other_threads_only=*/true);
      (void)attention.forward(in.q, in.k, in.v);
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
    CHECK(out_of_memory);
    out_of_memory = false;
    try {
      const test::RefuseAllocations refuse(limit, /*on_other_threads_only=*/true);
      (void)attention.backward(in.q, in.k, in.v, expected, in.q);
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
    CHECK(out_of_memory);
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(60));
  }
  CHECK(test::bitwise_equal(attention.forward(in.q, in.k, in.v), expected.out));
}

TEST_CASE("a member without memory for its own fields tells the others", "[allocation][ring]") {
  using Attention = ra::RingDistributedDilatedAttention<float, ra::ThreadCommunicator>;
  using BlockSparse = ra::BlockSparseRingDistributedDilatedAttention<float, ra::ThreadCommunicator>;
  ra::AttentionConfig config;
  config.segment_lengths = {64};
  config.dilation_rates = {1};
  ra::BlockSparseConfig sparse{.pattern = ra::BlockPattern::custom, .block_size = 16};
  for (std::int64_t i = 0; i < 100; ++i) sparse.blocks.push_back({i % 4, i / 4 % 4});
  const ra::Tensor<float> shard(1, 32, 1, 8);
  for (const std::size_t limit : {std::size_t{16}, std::size_t{64}, std::size_t{256}, std::size_t{350}}) {
    // Made here, where there is memory: arguments are the caller's.
    std::array<std::pair<ra::AttentionConfig, ra::BlockSparseConfig>, 2> arguments{std::pair{config, sparse},
                                                                                   std::pair{config, sparse}};
    check_second_without_memory(limit, [&](ra::ThreadCommunicator& communicator) {
      const Attention attention(std::move(arguments[static_cast<std::size_t>(communicator.rank())].first),
                                communicator);
    });
    arguments[0].first = arguments[1].first = config;
    check_second_without_memory(limit, [&](ra::ThreadCommunicator& communicator) {
      auto& [own, own_sparse] = arguments[static_cast<std::size_t>(communicator.rank())];
      const BlockSparse attention(std::move(own), std::move(own_sparse), communicator);
    });

    ra::ThreadRing ring(2, {.timeout = std::chrono::seconds(60)});
    std::array<std::optional<ra::ThreadCommunicator>, 2> communicators;
    std::array<std::optional<Attention>, 2> members;
    test::run_together(2, [&](int rank) {
      const auto i = static_cast<std::size_t>(rank);
      communicators[i].emplace(ring, rank);
      members[i].emplace(config, *communicators[i]);
    });
    check_second_without_memory(limit, [&](ra::ThreadCommunicator& communicator) {
      members[static_cast<std::size_t>(communicator.rank())]->forward(shard, shard, shard, 64);
    });
  }
}

TEST_CASE("a member without memory for the reason still tells that it failed", "[allocation][ring]") {
  check_second_without_memory(16, [](ra::ThreadCommunicator& communicator) {
    ra::detail::tell_failure(communicator, [&] {
      if (communicator.rank() == 1) throw WordyError();
      (void)communicator.all_gather({});
    });
  });
}
