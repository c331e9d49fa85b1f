// What it saves to share patterns between the ranks of a node: memory of the node, and time of the first
// lookups.
#pragma once

#include <malloc.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <ring_attention/mpi.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "measuring.hpp"
#include "mpi_group.hpp"
#include "problems.hpp"

namespace benchmarks {

/// Memory of this process, with its part of what it shares with others, in bytes: over the processes of a
/// node it adds up to what the node holds.
inline double proportional_memory() {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string word; file >> word;) {
    double kibibytes = 0.0;
    if (word == "Pss:" && file >> kibibytes) return 1024.0 * kibibytes;
  }
  throw std::runtime_error("/proc/self/smaps_rollup: does not name the proportional set size");
}

/// Collective over the group; prints on its first rank. LongNet's branches over 2^26 tokens, four heads: nine
/// patterns of 2^20 rows, computed once per node or by every rank, in turn.
inline nlohmann::json measure_pattern_sharing(const MpiGroup& group, int rounds) {
  ::mallopt(M_MMAP_THRESHOLD, 1 << 20);  // else the threshold grows with what was freed
  constexpr std::int64_t tokens = 1 << 26;
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {1 << 20, 1 << 23, 1 << 26};
  config.dilation_rates = {1, 8, 64};
  const std::vector<ra::PatternKey> keys = keys_of_call(config, tokens, 4);
  struct Way {
    const char* name;
    MPI_Comm node;
    std::vector<double> seconds = {};     // of the slowest rank
    std::vector<double> node_bytes = {};  // what the ranks hold more after the lookups, all together
  };
  Way ways[]{{"once_per_node", MPI_COMM_NULL}, {"by_every_rank", MPI_COMM_SELF}};
  std::size_t patterns = 0, bytes = 0;  // of one rank
  for (int i = 0; i < 2 * rounds; ++i) {
    Way& way = ways[(i + i / 2) % 2];
    ra::MpiCommunicator ring(group.communicator(), {}, {.node = way.node});
    ra::PatternCache cache;
    const ra::use_pattern_cache policy(cache);
    // As in a process that starts: memory that was used before would be used again.
    ::malloc_trim(0);
    const double before = proportional_memory();
    quiet_barrier(group.communicator());
    const double seconds = seconds_of([&] {
      for (const ra::PatternKey& key : keys) {
        (void)policy.dilated_indices(
            key, [&](const ra::PatternKey& missing) { return ring.dilated_indices(missing); });
      }
    });
    quiet_barrier(group.communicator());
    const std::vector<double> more = group.gather(proportional_memory() - before);
    way.seconds.push_back(std::ranges::max(group.gather(seconds)));
    way.node_bytes.push_back(std::accumulate(more.begin(), more.end(), 0.0));
    patterns = bytes = 0;
    for (const auto& [key, pattern] : cache.entries()) {
      if (*pattern != *ra::make_indices(key)) throw std::runtime_error("a shared pattern is another one");
      ++patterns;
      bytes += pattern->all_rows().size_bytes();
    }
    quiet_barrier(group.communicator());
  }
  nlohmann::json results{
      {"tokens", tokens}, {"patterns", patterns}, {"pattern_bytes", bytes}, {"ranks", group.size()}};
  if (group.rank() == 0) std::printf("\n%zu patterns of 2^26 tokens, %d ranks\n", patterns, group.size());
  for (const Way& way : ways) {
    const Summary seconds = summarize(way.seconds), node_bytes = summarize(way.node_bytes);
    results[way.name] = {{"seconds", seconds}, {"bytes_of_all_ranks", node_bytes}};
    if (group.rank() == 0) {
      std::printf("%-16s first lookups %.4f s, memory of the nodes %.1f MiB\n", way.name, seconds.median,
                  node_bytes.median / 1048576);
    }
  }
  return results;
}

}  // namespace benchmarks
