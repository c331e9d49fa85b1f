// Ranks on several hosts that share nothing but a network; hidden, since tests/network/run alone makes them.
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <ring_attention/attention/ring_distributed_dilated_attention.hpp>
#include <sstream>
#include <stdexcept>
#include <string>

#include "mpi/on_ranks.hpp"
#include "support/catch.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

/// What the script says of its network.
std::int64_t told(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr) throw std::runtime_error(std::string(name) + " is not set: run tests/network/run");
  return std::stoll(value);
}

struct Traffic {
  std::int64_t received = 0, sent = 0;  // bytes
};

/// Of this host, since it was made.
Traffic traffic() {
  std::ifstream devices("/proc/net/dev");
  for (std::string line; std::getline(devices, line);) {
    std::istringstream words(line);
    std::string device;
    if (!(words >> device) || device != "lan:") continue;
    std::array<std::int64_t, 9> counters{};
    for (std::int64_t& counter : counters) words >> counter;
    if (!words) break;
    return {counters[0], counters[8]};
  }
  throw std::runtime_error("/proc/net/dev has no counters of lan");
}

void meet(MPI_Comm ranks) { ra::detail::check_mpi(MPI_Barrier(ranks), "MPI_Barrier"); }

/// The ranks of this host.
class Host {
 public:
  Host() {
    ra::detail::check_mpi(
        MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &ranks_),
        "MPI_Comm_split_type");
  }
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;
  ~Host() { MPI_Comm_free(&ranks_); }

  MPI_Comm ranks() const { return ranks_; }
  int size() const {
    int size = 0;
    ra::detail::check_mpi(MPI_Comm_size(ranks_, &size), "MPI_Comm_size");
    return size;
  }
  /// How many there are in all.
  static int count(const Host& host) {
    int rank = 0, hosts = 0;
    ra::detail::check_mpi(MPI_Comm_rank(host.ranks_, &rank), "MPI_Comm_rank");
    const int is_first = rank == 0 ? 1 : 0;
    ra::detail::check_mpi(MPI_Allreduce(&is_first, &hosts, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD),
                          "MPI_Allreduce");
    return hosts;
  }

 private:
  MPI_Comm ranks_ = MPI_COMM_NULL;
};

/// The shortest of several round trips of one byte between the first and the last rank.
std::chrono::microseconds round_trip() {
  const int rank = test::world_rank(), last = test::world_size() - 1;
  auto shortest = std::chrono::microseconds::max();
  for (int repetition = 0; repetition < 20; ++repetition) {
    char byte = 0;
    meet(MPI_COMM_WORLD);
    const auto start = std::chrono::steady_clock::now();
    const auto send = [&](int peer) {
      ra::detail::check_mpi(MPI_Send(&byte, 1, MPI_CHAR, peer, 0, MPI_COMM_WORLD), "MPI_Send");
    };
    const auto receive = [&](int peer) {
      ra::detail::check_mpi(MPI_Recv(&byte, 1, MPI_CHAR, peer, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE),
                            "MPI_Recv");
    };
    if (rank == 0) {
      send(last);
      receive(last);
      shortest = std::min(shortest, std::chrono::duration_cast<std::chrono::microseconds>(
                                        std::chrono::steady_clock::now() - start));
    } else if (rank == last) {
      receive(0);
      send(0);
    }
  }
  return shortest;
}

}  // namespace

TEST_CASE("MPI tells hosts apart, and their network has the latency it was given", "[.network]") {
  const Host host;
  CHECK(Host::count(host) == told("HOSTS"));
  CHECK(host.size() * told("HOSTS") == test::world_size());
  const auto shortest = round_trip();
  if (test::world_rank() == 0) CHECK(shortest >= 2 * std::chrono::microseconds(told("LATENCY_US")));
}

TEST_CASE("what other hosts hold comes over the network", "[.network]") {
  const Host host;
  const int ranks = test::world_size(), rank = test::world_rank();
  constexpr std::int64_t tokens = 512, heads = 4, dim = 64;  // tokens of a rank
  ra::AttentionConfig config;
  config.segment_lengths = {tokens * ranks};
  config.dilation_rates = {1};
  const auto q = test::random_tensor<float>({1, tokens * ranks, heads, dim}, 1);
  const auto k = test::random_tensor<float>(q.shape(), 2), v = test::random_tensor<float>(q.shape(), 3);
  const auto shard = [&](const ra::Tensor<float>& whole) {
    ra::Tensor<float> part(1, tokens, heads, dim);
    std::copy_n(whole.data() + rank * part.size(), part.size(), part.data());
    return part;
  };
  const auto expected = shard(ra::RingDilatedAttentionV2<float>(config).forward(q, k, v));

  ra::MpiCommunicator ring(MPI_COMM_WORLD);
  const ra::RingDistributedDilatedAttention<float, ra::MpiCommunicator> attention(config, ring);
  const auto my_q = shard(q), my_k = shard(k), my_v = shard(v);
  const Traffic before = traffic();
  meet(MPI_COMM_WORLD);
  const auto out = attention.forward(my_q, my_k, my_v, tokens * ranks);
  meet(MPI_COMM_WORLD);
  const Traffic after = traffic();

  for (std::int64_t i = 0; i < out.size(); ++i) {
    REQUIRE(std::abs(out.data()[i] - expected.data()[i]) <= 2e-5f);
  }
  // Random numbers: no encoding of them is shorter.
  const std::int64_t remote = 2 * (ranks - host.size()) * tokens * heads * dim * std::int64_t{sizeof(float)};
  CHECK(after.received - before.received >= remote);
  if (host.size() == 1) {
    CHECK(attention.bytes_sent() >= static_cast<std::uint64_t>(remote));
    CHECK(after.sent - before.sent >= static_cast<std::int64_t>(attention.bytes_sent()));
  }
}
