// Ranks that disagree, throw or never come: every rank learns of it within the timeout.
#include <chrono>
#include <cstdint>
#include <ring_attention/attention/ring_distributed_dilated_attention.hpp>
#include <stdexcept>
#include <string>
#include <thread>

#include "mpi/on_ranks.hpp"
#include "support/catch.hpp"
#include "support/faulty_communicator.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;
using namespace std::chrono_literals;

constexpr std::int64_t tokens_per_rank = 16;

ra::AttentionConfig dense() {
  ra::AttentionConfig config;
  config.segment_lengths = {tokens_per_rank * test::world_size()};
  config.dilation_rates = {1};
  return config;
}

/// Throws on the last rank.
struct ThrowingPolicy {
  ra::PatternCache::Pattern dilated_indices(const ra::PatternKey& key) const {
    if (test::world_rank() == test::world_size() - 1) throw std::runtime_error("no indices today");
    return ra::make_dilated_indices(key);
  }
};

/// Throws before a step.
struct ThrowingRing : ra::MpiCommunicator {
  using MpiCommunicator::MpiCommunicator;
  void step(int, int) {
    if (steps_left-- == 0) throw std::runtime_error("no step today");
  }
  int steps_left = -1;
};

template <class Call>
std::string end_of(const Call& call) {
  try {
    call();
  } catch (...) {
    return test::describe(std::current_exception());
  }
  return "returned";
}

template <class Attention>
auto forward(const Attention& attention) {
  const auto x = test::random_tensor<float>({1, tokens_per_rank, 2, 8}, 7);
  return attention.forward(x, x, x, tokens_per_rank * test::world_size());
}

void meet() { ra::detail::check_mpi(MPI_Barrier(MPI_COMM_WORLD), "MPI_Barrier"); }

}  // namespace

TEST_CASE("a configuration that differs on one rank is refused on every rank", "[mpi][faults]") {
  if (test::world_size() == 1) return;
  ra::MpiCommunicator ring(MPI_COMM_WORLD);
  ra::AttentionConfig config = dense();
  if (test::world_rank() == test::world_size() - 1) config.dilation_rates = {2};
  using Attention = ra::RingDistributedDilatedAttention<float, ra::MpiCommunicator>;
  const std::string told = end_of([&] { Attention(config, ring); });
  INFO(told);
  CHECK(told.starts_with("invalid_argument: "));
  CHECK(told.find("dilation_rates") != std::string::npos);
  CHECK(told.find("rank " + std::to_string(test::world_size() - 1)) != std::string::npos);
  // That leaves the ring as it was.
  CHECK(end_of([&] { (void)forward(Attention(dense(), ring)); }) == "returned");
}

TEST_CASE("a rank that throws makes every rank throw with the reason", "[mpi][faults]") {
  const int last = test::world_size() - 1;
  for (int repetition = 0; repetition < 20; ++repetition) {
    ra::MpiCommunicator ring(MPI_COMM_WORLD, {.timeout = 60s});
    const ra::RingDistributedDilatedAttention<float, ra::MpiCommunicator, ThrowingPolicy> attention(dense(),
                                                                                                    ring);
    const auto start = std::chrono::steady_clock::now();
    const std::string told = end_of([&] { (void)forward(attention); });
    if (test::world_rank() == last) {
      CHECK(told == "error: no indices today");
    } else {
      CHECK(told == "MemberFailed: ring member " + std::to_string(last) + " failed: no indices today");
    }
    CHECK(std::chrono::steady_clock::now() - start < 30s);
    meet();
  }
}

TEST_CASE("a rank that throws between two steps makes every rank throw with the reason", "[mpi][faults]") {
  const int last = test::world_size() - 1;
  const std::int64_t n = tokens_per_rank * test::world_size();
  const auto x = test::random_tensor<float>({1, tokens_per_rank, 2, 8}, 7);
  for (const bool shared : {true, false}) {
    // Steps of forward, then of backward.
    for (int fatal_step = 0; fatal_step < 2 * test::world_size(); ++fatal_step) {
      ThrowingRing ring(MPI_COMM_WORLD, {.timeout = 60s}, {.node = shared ? MPI_COMM_NULL : MPI_COMM_SELF});
      const ra::RingDistributedDilatedAttention<float, ThrowingRing> attention(dense(), ring);
      if (test::world_rank() == last) ring.steps_left = fatal_step;
      const std::string told = end_of([&] {
        const auto result = attention.forward_with_lse(x, x, x, n);
        (void)attention.backward(x, x, x, result, x, n);
        (void)attention.forward(x, x, x, n);  // a rank may have had all it needed
      });
      INFO("step " << fatal_step << ", shared memory " << shared);
      CHECK(told == (test::world_rank() == last
                         ? "error: no step today"
                         : "MemberFailed: ring member " + std::to_string(last) + " failed: no step today"));
      meet();
    }
  }
}

TEST_CASE("options that are invalid or differ on one rank are refused on every rank", "[mpi][faults]") {
  const int last = test::world_size() - 1;
  const bool odd = test::world_rank() == last;
  CHECK(end_of([&] { ra::MpiCommunicator(MPI_COMM_WORLD, {.timeout = odd ? -1ms : 60s}); }) ==
        "invalid_argument: rank " + std::to_string(last) + ": timeout = -1 ms: must not be negative");
  if (last == 0) return;
  CHECK(end_of([&] { ra::MpiCommunicator(MPI_COMM_WORLD, {}, {.largest_piece = odd ? 1000u : 2000u}); }) ==
        "invalid_argument: largest_piece on rank " + std::to_string(last) +
            " = 1000: must equal rank 0's 2000");
}

TEST_CASE("a rank that does not come is lost to the others within the timeout", "[mpi][faults]") {
  if (test::world_size() == 1) return;
  const bool comes = test::world_rank() != 0;
  // Long enough that a ring is made where a network loses packets.
  for (const auto timeout : {1000ms, 2000ms}) {
    ra::MpiCommunicator ring(MPI_COMM_WORLD, {.timeout = 60s});
    const ra::RingDistributedDilatedAttention<float, ra::MpiCommunicator> healthy(dense(), ring);
    meet();
    ra::MpiCommunicator impatient(MPI_COMM_WORLD, {.timeout = timeout});
    const auto start = std::chrono::steady_clock::now();
    if (comes) {
      const std::string told = end_of([&] {
        const ra::RingDistributedDilatedAttention<float, ra::MpiCommunicator> attention(dense(), impatient);
        (void)forward(attention);
      });
      INFO(told);
      CHECK(told.starts_with("PeerLost: "));
      CHECK(std::chrono::steady_clock::now() - start < 20s);
    } else {
      std::this_thread::sleep_for(timeout + 1s);
      // Who comes late is told, and does not wait in turn.
      CHECK(end_of([&] {
              const ra::RingDistributedDilatedAttention<float, ra::MpiCommunicator> attention(dense(),
                                                                                              impatient);
            }).starts_with("PeerLost: "));
    }
    // Another ring over the same ranks is not touched by that.
    CHECK(end_of([&] { (void)forward(healthy); }) == "returned");
    meet();
  }
}

TEST_CASE("what MPI cannot do is told", "[mpi]") {
  CHECK(end_of([] { ra::MpiCommunicator(MPI_COMM_WORLD, {.timeout = -1ms}); }) ==
        "invalid_argument: rank 0: timeout = -1 ms: must not be negative");
  CHECK(end_of([] { ra::MpiCommunicator(MPI_COMM_WORLD, {}, {.largest_piece = 0}); }) ==
        "invalid_argument: rank 0: largest_piece = 0: must lie in [1, 2^31)");
  const std::string told = end_of([] { ra::detail::check_mpi(MPI_ERR_RANK, "MPI_Isend"); });
  CHECK(told.starts_with("error: MPI_Isend: "));
  std::string from_other_thread;
  std::thread([&] { from_other_thread = end_of([] { ra::MpiCommunicator(MPI_COMM_WORLD); }); }).join();
  CHECK(from_other_thread.find("MPI_THREAD_FUNNELED") != std::string::npos);
}
