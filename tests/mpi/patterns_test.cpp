// Ranks of one machine compute a pattern once.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ring_attention/attention/ring_distributed_dilated_attention.hpp>
#include <ring_attention/pattern/make_indices.hpp>
#include <ring_attention/ring/node_patterns.hpp>
#include <vector>

#include "mpi/on_ranks.hpp"
#include "support/catch.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

ra::PatternKey key_of(std::int64_t length, std::int64_t rate, std::int64_t offset = 0) {
  return {.sequence_length = length, .segment_lengths = {length}, .dilation_rates = {rate}, .offset = offset};
}

int sum_over_ranks(int mine) {
  int sum = 0;
  MPI_Allreduce(&mine, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  return sum;
}

/// Names of memory that rank 0 shares.
ra::detail::SharedMemory share_directory(ra::detail::SharedMemory& owned) {
  ra::detail::SharedMemoryName name;
  if (test::world_rank() == 0) {
    owned = ra::detail::SharedMemory::create(sizeof(ra::detail::NodePatterns::Directory));
    name = owned.name();
  }
  MPI_Bcast(&name, sizeof name, MPI_BYTE, 0, MPI_COMM_WORLD);
  return ra::detail::SharedMemory::attach(name);
}

}  // namespace

TEST_CASE("processes of a machine compute each pattern once, in any order", "[mpi][patterns]") {
  if (!test::processes_share_memory()) return;
  ra::detail::SharedMemory owned;
  ra::detail::NodePatterns patterns(std::chrono::seconds(60));
  patterns.share(share_directory(owned));
  std::vector<ra::PatternKey> keys;
  for (std::int64_t rate = 1; rate <= 12; ++rate) keys.push_back(key_of(40'000 + rate, rate, rate / 2));
  keys.push_back({.sequence_length = 64,
                  .segment_lengths = {},
                  .dilation_rates = {},
                  .kind = ra::PatternKind::local_window,
                  .parameters = {3, 3}});
  const std::size_t first = static_cast<std::size_t>(test::world_rank()) * 5;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const ra::PatternKey& key = keys[(first + i) % keys.size()];
    const auto pattern = patterns.find_or_compute(key);
    CHECK(*pattern == *ra::make_indices(key));
    CHECK(pattern->mapped());
  }
  CHECK(sum_over_ranks(static_cast<int>(patterns.computed())) == static_cast<int>(keys.size()));
  // What fits into a page is not worth the mapping.
  CHECK_FALSE(patterns.find_or_compute(key_of(100, 1))->mapped());
  CHECK(*patterns.find_or_compute(key_of(100, 1)) == *ra::make_indices(key_of(100, 1)));
}

TEST_CASE("patterns beyond the directory are computed by every process", "[mpi][patterns]") {
  if (!test::processes_share_memory()) return;
  ra::detail::SharedMemory owned;
  ra::detail::NodePatterns patterns(std::chrono::seconds(60));
  patterns.share(share_directory(owned));
  const auto limit = static_cast<std::int64_t>(ra::detail::NodePatterns::max_patterns);
  for (std::int64_t i = 0; i < limit + 20; ++i) {
    const ra::PatternKey key = key_of(1000 + i, 1);
    CHECK(*patterns.find_or_compute(key) == *ra::make_indices(key));
  }
  CHECK(sum_over_ranks(static_cast<int>(patterns.computed())) == static_cast<int>(limit));
}

TEST_CASE("a pattern that is shared stays after the communicator", "[mpi][patterns]") {
  const std::int64_t shard = 4096, n = shard * test::world_size();
  ra::PatternCache cache;
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {n};
  config.dilation_rates = {test::world_size()};
  const auto x = test::random_tensor<float>({1, shard, 1, 4}, 3);
  const bool shares = [&] {
    ra::MpiCommunicator ring(MPI_COMM_WORLD);
    const ra::RingDistributedDilatedAttention<float, ra::MpiCommunicator> attention(
        config, ring, ra::use_pattern_cache(cache));
    (void)attention.forward(x, x, x, n);
    bool with_any = false;
    for (int peer = 0; peer < ring.size(); ++peer) {
      with_any = with_any || (peer != ring.rank() && ring.shares_memory_with(peer));
    }
    return with_any;
  }();
  MPI_Barrier(MPI_COMM_WORLD);
  REQUIRE(cache.stats().entries >= 1);
  for (const auto& [key, pattern] : cache.entries()) {
    CHECK(pattern->mapped() == shares);
    CHECK(*pattern == *ra::make_indices(key));
  }
}
