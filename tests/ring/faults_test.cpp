// suites: compilers
// unit: members
// Members that throw, or never answer: every member learns of it within the timeout.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <ring_attention/attention/ring_distributed_dilated_attention.hpp>
#include <ring_attention/attention/true_ring_dilated_attention.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/distributed.hpp"
#include "support/error_text.hpp"
#include "support/faulty_communicator.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;
using namespace std::chrono_literals;

constexpr int members = 4;
constexpr std::int64_t tokens = 64;

ra::AttentionConfig dense() {
  ra::AttentionConfig config;
  config.segment_lengths = {tokens};
  config.dilation_rates = {1};
  return config;
}

/// A policy that throws where it is told to.
class ThrowingPolicy {
 public:
  explicit ThrowingPolicy(bool throws = false) : throws_(throws) {}
  ra::PatternCache::Pattern dilated_indices(const ra::PatternKey& key) const {
    if (throws_) throw std::runtime_error("no indices today");
    return ra::make_dilated_indices(key);
  }

 private:
  bool throws_;
};

/// Everything that one member owns.
template <class CachePolicy = ra::use_pattern_cache>
struct Member {
  using Attention = ra::RingDistributedDilatedAttention<float, test::FaultyCommunicator, CachePolicy>;

  Member(ra::ThreadRing& ring, int rank, const ra::AttentionConfig& config,
         CachePolicy policy = CachePolicy())
      : communicator(ring, rank),
        attention(config, communicator, std::move(policy)),
        q(test::random_tensor<float>({1, tokens / ring.size(), 2, 8}, static_cast<std::uint64_t>(rank))) {}

  ra::AttentionResult<float> forward() const { return attention.forward_with_lse(q, q, q, tokens); }
  ra::Gradients<float> backward(const ra::AttentionResult<float>& result) const {
    return attention.backward(q, q, q, result, q, tokens);
  }

  test::FaultyCommunicator communicator;
  Attention attention;
  ra::Tensor<float> q;
};

}  // namespace

TEST_CASE("a member that throws makes every member throw with the reason", "[ring][faults]") {
  const std::string told = "MemberFailed: ring member 2 failed: the cable was cut";
  for (const bool backward : {false, true}) {
    int faults = 0;
    for (int operation = 1; operation <= 40; ++operation) {
      INFO((backward ? "backward" : "forward") << ", operation " << operation);
      ra::ThreadRing ring(members, {.timeout = 60s});
      std::atomic<bool> reached{false};
      std::vector<std::exception_ptr> second(members);
      const auto start = std::chrono::steady_clock::now();
      const auto ends = test::run_members(members, [&](int rank) {
        Member<> member(ring, rank, dense());
        const auto result = member.forward();
        if (rank == 2) {
          member.communicator.set_fault(operation, [&] {
            reached = true;
            throw std::runtime_error("the cable was cut");
          });
        }
        const auto call = [&] {
          if (backward) {
            (void)member.backward(result);
          } else {
            (void)member.forward();
          }
        };
        try {
          call();
        } catch (...) {
          // The ring is over for everyone: the next call says so, too.
          second[static_cast<std::size_t>(rank)] = test::run_members(1, [&](int) { call(); }).front();
          throw;
        }
      });
      CHECK(std::chrono::steady_clock::now() - start < 30s);
      if (!reached) {
        for (const auto& end : ends) CHECK(test::describe(end) == "returned");
        break;
      }
      ++faults;
      for (int rank = 0; rank < members; ++rank) {
        const auto at = static_cast<std::size_t>(rank);
        if (rank == 2) {
          CHECK(test::describe(ends[at]) == "error: the cable was cut");
        } else if (ends[at] || operation <= 2) {  // a member may have had all it needed
          CHECK(test::describe(ends[at]) == told);
        }
        if (ends[at]) CHECK(test::describe(second[at]) == told);
      }
    }
    CHECK(faults >= 3 * (members - 1));
  }
}

TEST_CASE("a member whose indices cannot be found makes every member throw", "[ring][faults]") {
  ra::ThreadRing ring(members, {.timeout = 60s});
  const auto ends = test::run_members(members, [&](int rank) {
    const Member<ThrowingPolicy> member(ring, rank, dense(), ThrowingPolicy(rank == 1));
    (void)member.forward();
  });
  for (std::size_t rank = 0; rank < members; ++rank) {
    CHECK(test::describe(ends[rank]) ==
          (rank == 1 ? "error: no indices today" : "MemberFailed: ring member 1 failed: no indices today"));
  }
}

TEST_CASE("a member that never calls is lost to the others", "[ring][faults]") {
  constexpr auto timeout = 300ms;
  for (const bool constructs : {false, true}) {
    INFO((constructs ? "constructs" : "does not construct"));
    ra::ThreadRing ring(members, {.timeout = timeout});
    std::atomic<int> ended{0};
    bool others_ended = false;
    const auto start = std::chrono::steady_clock::now();
    const auto ends = test::run_members(members, [&](int rank) {
      const auto wait_for_others = [&] {
        others_ended = test::eventually([&] { return ended == members - 1; });
      };
      if (rank == 3 && !constructs) wait_for_others();
      try {
        const Member<> member(ring, rank, dense());
        if (rank == 3) wait_for_others();
        (void)member.forward();
      } catch (...) {
        ++ended;
        throw;
      }
    });
    const auto waited = std::chrono::steady_clock::now() - start;
    CHECK(waited >= timeout);
    CHECK(waited < 30s);
    CHECK(others_ended);
    // Whoever times out first tells the others, and the one that comes late does not wait in turn.
    const int first = ring.failed_rank();
    CHECK((first >= 0 && first < 3));
    for (std::size_t rank = 0; rank < members; ++rank) {
      // Two may time out at once, each for itself.
      const std::string text = test::describe(ends[rank]);
      CHECK(text.starts_with("PeerLost: ring member "));
      CHECK(text.ends_with(" waited 300 ms for the other members"));
      if (rank == 3) CHECK(text.find("member " + std::to_string(first)) != std::string::npos);
    }
  }
}

TEST_CASE("forward and backward may run in threads and communicators of their own", "[ring][faults]") {
  ra::ThreadRing ring(members, {.timeout = 60s});
  std::vector<ra::AttentionResult<float>> results(members);
  std::vector<ra::Gradients<float>> expected(members), grads(members);
  const auto run = [&](const auto& body) {
    for (const auto& end : test::run_members(members, [&](int rank) {
           body(Member<>(ring, rank, dense()), static_cast<std::size_t>(rank));
         })) {
      CHECK(test::describe(end) == "returned");
    }
  };
  run([&](const Member<>& member, std::size_t at) {
    results[at] = member.forward();
    expected[at] = member.backward(results[at]);
  });
  run([&](const Member<>& member, std::size_t at) { grads[at] = member.backward(results[at]); });
  for (std::size_t at = 0; at < members; ++at) {
    CHECK(test::bitwise_equal(grads[at].q, expected[at].q));
    CHECK(test::bitwise_equal(grads[at].k, expected[at].k));
    CHECK(test::bitwise_equal(grads[at].v, expected[at].v));
  }
}

TEST_CASE("a member that stops answering in the middle is lost to the others", "[ring][faults]") {
  for (const bool backward : {false, true}) {
    INFO((backward ? "backward" : "forward"));
    ra::ThreadRing ring(members, {.timeout = 300ms});
    std::atomic<int> ended{0};
    bool others_ended = false;
    const auto start = std::chrono::steady_clock::now();
    const auto ends = test::run_members(members, [&](int rank) {
      Member<> member(ring, rank, dense());
      std::optional<ra::AttentionResult<float>> result;
      if (backward) result = member.forward();
      if (rank == 1) {
        member.communicator.set_fault(
            2, [&] { others_ended = test::eventually([&] { return ended == members - 1; }); });
      }
      try {
        if (backward) {
          (void)member.backward(*result);
        } else {
          (void)member.forward();
        }
      } catch (...) {
        if (rank != 1) ++ended;
        throw;
      }
    });
    CHECK(std::chrono::steady_clock::now() - start < 30s);
    CHECK(others_ended);
    for (const auto& end : ends) {
      // Whoever times out first, on the lost member or on one that waits for it, tells the others; the lost
      // one hears of it, too, when it answers at last.
      const std::string text = test::describe(end);
      CHECK(text.starts_with("PeerLost: ring member "));
      CHECK(text.find(" waited 300 ms for member ") != std::string::npos);
    }
  }
}

TEST_CASE("TrueRing throws what its configuration or policy throws", "[ring][faults]") {
  ra::AttentionConfig config = dense();
  config.ring_size = 4;
  const auto q = test::random_tensor<float>({1, tokens, 2, 8}, 1);
  const ra::TrueRingDilatedAttention<float, ThrowingPolicy> attention(config, ThrowingPolicy(true));
  CHECK_THROWS_AS(attention.forward(q, q, q), std::runtime_error);
  const ra::TrueRingDilatedAttention<float> impatient(config, ra::CommunicatorOptions{.timeout = 60s});
  CHECK(impatient.forward(q, q, q).shape() == q.shape());
  CHECK(test::error_text([&] {
          ra::TrueRingDilatedAttention<float>(config, ra::CommunicatorOptions{.timeout = -5ms});
        }) == "timeout = -5 ms: must not be negative");
  config.ring_size = 0;
  CHECK_THROWS_AS(ra::TrueRingDilatedAttention<float>(config), std::invalid_argument);
}
