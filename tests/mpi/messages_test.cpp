// How bytes travel between ranks, by messages and in shared memory, and how many.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <ring_attention/attention/ring_distributed_dilated_attention.hpp>
#include <stdexcept>
#include <utility>
#include <vector>

#include "mpi/on_ranks.hpp"
#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/compare.hpp"
#include "support/distributed.hpp"
#include "support/random_case.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;
using Incoming = ra::MpiCommunicator::Incoming;
using Outgoing = ra::MpiCommunicator::Outgoing;

std::byte byte_at(int rank, int number, std::size_t place) {
  return static_cast<std::byte>(17 * static_cast<std::size_t>(rank) + 5 * static_cast<std::size_t>(number) +
                                place % 251);
}

void write(std::span<std::byte> bytes, int rank, int number) {
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = byte_at(rank, number, i);
}

bool is_message(std::span<const std::byte> bytes, int rank, int number) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] != byte_at(rank, number, i)) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("results and bytes are the same bits however they travel", "[mpi]") {
  const test::Machines pairs(2), triples(3);
  const ra::MpiOptions ways[] = {{.largest_piece = 100, .node = MPI_COMM_SELF},
                                 {.largest_piece = 3001, .node = MPI_COMM_SELF},
                                 {.node = pairs.mine()},
                                 {.largest_piece = 777, .node = triples.mine()}};
  for (std::uint64_t seed = 0; seed < test::rule_combinations; ++seed) {
    const test::RandomCase c = test::case_on_ranks(seed);
    INFO(c.describe());
    const test::ThreadScope threads(1);
    const auto q = test::random_tensor<float>(c.q, 1), k = test::random_tensor<float>(c.k, 2);
    const auto grad_out = test::random_tensor<float>(c.q, 3);
    const test::DistributedOnThreads<float> on_threads(c.config);
    const auto rank = static_cast<std::size_t>(test::world_rank());
    const auto expected = on_threads.forward_with_lse(q, k, k);
    const std::uint64_t forward_bytes = on_threads.bytes_sent()[rank];
    const auto expected_grads = on_threads.backward(q, k, k, expected, grad_out);
    const std::uint64_t backward_bytes = on_threads.bytes_sent()[rank];
    const auto check = [&](const ra::MpiOptions& way) {
      const test::Distributed<float, test::OnRanks> on_ranks(c.config, test::OnRanks(way));
      const auto result = on_ranks.forward_with_lse(q, k, k);
      CHECK(on_ranks.bytes_sent()[rank] == forward_bytes);
      CHECK(test::bitwise_equal(result.out, expected.out));
      CHECK(test::bitwise_equal(result.lse, expected.lse));
      const auto grads = on_ranks.backward(q, k, k, expected, grad_out);
      CHECK(on_ranks.bytes_sent()[rank] == backward_bytes);
      CHECK(test::bitwise_equal(grads.q, expected_grads.q));
      CHECK(test::bitwise_equal(grads.k, expected_grads.k));
      CHECK(test::bitwise_equal(grads.v, expected_grads.v));
    };
    check({});
    check(ways[seed % std::size(ways)]);
  }
}

TEST_CASE("ranks that share no segment exchange nothing", "[mpi]") {
  ra::MpiCommunicator ring(MPI_COMM_WORLD);
  const std::int64_t shard = 48, n = shard * ring.size();
  const auto bytes_sent = [&](std::vector<std::int64_t> lengths, std::vector<std::int64_t> rates,
                              bool causal) {
    ra::AttentionConfig config = ra::ring_preset();
    config.segment_lengths = std::move(lengths);
    config.dilation_rates = std::move(rates);
    config.causal = causal;
    const ra::RingDistributedDilatedAttention<float, ra::MpiCommunicator> attention(config, ring);
    const auto x = test::random_tensor<float>({1, shard, 2, 8}, 5);
    (void)attention.forward(x, x, x, n);
    return attention.bytes_sent();
  };
  // key rows of two heads of 8 numbers, each with a value row
  const auto bytes_of = [](std::int64_t rows) { return static_cast<std::uint64_t>(rows * 2 * 2 * 8 * 4); };
  const auto others = ring.size() - 1, later = others - ring.rank();
  CHECK(bytes_sent({shard, shard / 2}, {1, 2}, false) == 0);
  CHECK(bytes_sent({n}, {1}, false) == bytes_of(shard * others));
  CHECK(bytes_sent({n}, {1}, true) == bytes_of(shard * later));
  // Segments of two ranks: the rank beside this one, where there is one.
  const int neighbour = ring.rank() ^ 1;
  CHECK(bytes_sent({2 * shard}, {1}, false) == (neighbour < ring.size() ? bytes_of(shard) : 0));
  // Both heads keep the rows of the offsets 0 and 1 out of 4: shards begin at multiples of 4.
  CHECK(bytes_sent({n}, {4}, false) == bytes_of(shard / 4 * others));
}

TEST_CASE("LongNet's long segments send what the plan says", "[mpi]") {
  ra::MpiCommunicator ring(MPI_COMM_WORLD);
  const std::int64_t n = 49152 / ring.size() * ring.size(), d = 8;
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {2048, 4096, 8192, 16384, 32768};
  config.dilation_rates = {1, 2, 4, 8, 16};
  const ra::RingDistributedDilatedAttention<float, ra::MpiCommunicator> attention(config, ring);
  const test::ThreadScope threads(1);
  const auto x = test::random_tensor<float>({1, n / ring.size(), 1, d}, 6);
  (void)attention.forward(x, x, x, n);
  const auto rows = attention.plan_report(n, 1, 1).members[static_cast<std::size_t>(ring.rank())].rows_sent;
  CHECK(attention.bytes_sent() == static_cast<std::uint64_t>(2 * rows * d) * sizeof(float));
  if (ring.size() == 2) CHECK(attention.bytes_sent() > 0);  // the first segment of 32,768 lies in both shards
}

TEST_CASE("ranks share memory within a machine only", "[mpi]") {
  if (!test::processes_share_memory()) return;
  const int size = test::world_size();
  for (const int machine : {1, 2, 3}) {
    const test::Machines machines(machine);
    ra::MpiCommunicator ring(MPI_COMM_WORLD, {}, {.node = machines.mine()});
    for (int peer = 0; peer < size; ++peer) {
      CHECK(ring.shares_memory_with(peer) ==
            (peer != ring.rank() && peer / machine == ring.rank() / machine));
    }
  }
  ra::MpiCommunicator ring(MPI_COMM_WORLD);
  MPI_Comm node = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  int neighbours = 0, shared = 0;
  MPI_Comm_size(node, &neighbours);
  MPI_Comm_free(&node);
  for (int peer = 0; peer < size; ++peer) shared += ring.shares_memory_with(peer);
  CHECK(shared == neighbours - 1);
}

TEST_CASE("messages of any size arrive in order, in memory that is used again", "[mpi]") {
  const test::Machines pairs(2);
  const int size = test::world_size();
  for (const MPI_Comm node : {MPI_COMM_NULL, pairs.mine()}) {
    ra::MpiCommunicator ring(MPI_COMM_WORLD, {}, {.largest_piece = 1000, .node = node});
    const int to = (ring.rank() + 1) % size, from = (ring.rank() + size - 1) % size;
    if (size == 1) return;
    Outgoing out[2];
    Incoming in[2];
    int number = 0;
    for (const std::size_t bytes : {1u, 1000u, 1001u, 5u, 40'000u, 1000u, 0u, 999u, 300'000u, 1u}) {
      for (int repetition = 0; repetition < 3; ++repetition, ++number) {
        const auto at = static_cast<std::size_t>(number % 2);
        ring.expect(in[at], from, 1, bytes);
        ring.prepare(out[at], to, 1, bytes);
        REQUIRE(out[at].bytes().size() == bytes);
        write(out[at].bytes(), ring.rank(), number);
        ring.send(out[at]);
        if (number == 0) continue;
        ring.wait(in[1 - at]);
        REQUIRE(is_message(in[1 - at].bytes(), from, number - 1));
        ring.release(in[1 - at]);
      }
    }
    const auto last = static_cast<std::size_t>((number - 1) % 2);
    ring.wait(in[last]);
    CHECK(is_message(in[last].bytes(), from, number - 1));
    ring.release(in[last]);
    for (Outgoing& message : out) ring.wait(message);
  }
}

TEST_CASE("a lent message stays as it is until it is released", "[mpi]") {
  ra::MpiCommunicator ring(MPI_COMM_WORLD);
  const int peer = ring.rank() ^ 1;
  const bool shares = peer < ring.size() && ring.shares_memory_with(peer);
  Outgoing first, second;
  Incoming received;
  if (shares) {
    ring.expect(received, peer, 0, 5000);
    ring.prepare(first, peer, 0, 5000);
    write(first.bytes(), ring.rank(), 1);
    ring.send(first);
    ring.wait(received);
    // A second place must not get the memory of the first.
    ring.prepare(second, peer, 0, 5000);
    write(second.bytes(), ring.rank(), 2);
  }
  MPI_Barrier(MPI_COMM_WORLD);
  if (!shares) return;
  CHECK(is_message(received.bytes(), peer, 1));
  ring.release(received);
  ring.wait(first);
  ring.expect(received, peer, 0, 5000);
  ring.send(second);
  ring.wait(received);
  CHECK(is_message(received.bytes(), peer, 2));
  ring.release(received);
  ring.wait(second);
}

TEST_CASE("a message of another size than was expected is told", "[mpi]") {
  const test::Machines pairs(2);
  for (const MPI_Comm node : {MPI_COMM_SELF, pairs.mine()}) {
    ra::MpiCommunicator ring(MPI_COMM_WORLD, {.timeout = std::chrono::seconds(20)}, {.node = node});
    const int peer = ring.rank() ^ 1;
    if (peer < ring.size()) {
      Outgoing out;
      Incoming in;
      ring.expect(in, peer, 0, 64);
      ring.prepare(out, peer, 0, 63);
      write(out.bytes(), ring.rank(), 0);
      ring.send(out);
      CHECK_THROWS_AS(ring.wait(in), std::logic_error);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    ring.fail("a message of the wrong size");
  }
}

// 2 x 2.1 GiB for each way: not run by itself.
TEST_CASE("messages beyond 2 GiB arrive whole", "[.large]") {
  for (const MPI_Comm node : {MPI_COMM_SELF, MPI_COMM_NULL}) {
    ra::MpiCommunicator ring(MPI_COMM_WORLD, {}, {.node = node});
    if (ring.size() == 1) return;
    const std::size_t bytes = (std::size_t{1} << 31) + (std::size_t{1} << 27) + 3;
    if (ring.rank() == 0) {
      Outgoing out;
      ring.prepare(out, 1, 0, bytes);
      write(out.bytes(), 0, 9);
      ring.send(out);
      ring.wait(out);
    } else if (ring.rank() == 1) {
      Incoming in;
      ring.expect(in, 0, 0, bytes);
      ring.wait(in);
      REQUIRE(in.bytes().size() == bytes);
      CHECK(is_message(in.bytes(), 0, 9));
      ring.release(in);
    }
  }
}
