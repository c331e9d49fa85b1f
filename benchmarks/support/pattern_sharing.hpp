// What it saves to share patterns between the ranks of a node: memory of the node, and time of the first
// lookups.
#pragma once

#include <malloc.h>

#include <algorithm>
#include <array>
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

#include "clock.hpp"
#include "format.hpp"
#include "mpi_group.hpp"
#include "statistics.hpp"

namespace benchmarks {

/// Memory of this process, with its part of what it shares with others, in bytes: over the processes of a
/// node it adds up to what the node holds.
inline double proportional_memory() {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string word; file >> word;) {
    double kibibytes = 0.0;
    if (word == "Pss:" && file >> kibibytes) return 1024.0 * kibibytes;
  }
  throw std::runtime_error("/proc/self/smaps_rollup: does not tell the proportional set size");
}

/// LongNet's branches over 2^26 tokens, four heads: nine patterns of 2^20 rows.
class PatternSharing {
 public:
  struct Samples {
    std::vector<double> seconds;          ///< of the slowest rank, for the lookups of one call's plan
    std::vector<double> node_bytes;       ///< what the ranks hold more after them, all together
    std::size_t patterns = 0, bytes = 0;  ///< of one rank
  };
  static constexpr std::size_t once_per_node = 0, by_every_rank = 1;
  static constexpr const char* name = "patterns-per-node";

  explicit PatternSharing(const MpiGroup& group) : group_(&group) {
    ::mallopt(M_MMAP_THRESHOLD, 1 << 20);  // else the threshold grows with what was freed
    config_ = ra::longnet_preset();
    config_.segment_lengths = {1 << 20, 1 << 23, 1 << 26};
    config_.dilation_rates = {1, 8, 64};
  }

  /// Collective.
  std::array<Samples, 2> take(int rounds) const {
    std::array<Samples, 2> samples;
    for (int round = 0; round < rounds; ++round) {
      for (std::size_t i = 0; i < samples.size(); ++i) {
        const std::size_t way = (i + static_cast<std::size_t>(round)) % samples.size();
        look_up(way == once_per_node, samples[way]);
      }
    }
    return samples;
  }

 private:
  void look_up(bool share, Samples& samples) const {
    ra::MpiCommunicator ring(group_->communicator(), {}, {.node = share ? MPI_COMM_NULL : MPI_COMM_SELF});
    ra::PatternCache cache;
    const ra::use_pattern_cache policy(cache);
    const auto compute = [&ring](const ra::PatternKey& key) { return ring.dilated_indices(key); };
    // As in a process that starts: memory that was used before would be used again.
    ::malloc_trim(0);
    const double before = proportional_memory();
    quiet_barrier(group_->communicator());
    const double seconds = seconds_of([&] {
      (void)ra::detail::plan_call(config_, {1, 1 << 26, 4, 4, 64}, {}, [&](const ra::PatternKey& key) {
        return policy.dilated_indices(key, compute);
      });
    });
    quiet_barrier(group_->communicator());
    const std::vector<double> more = group_->gather(proportional_memory() - before);
    const std::vector<double> times = group_->gather(seconds);
    samples.seconds.push_back(*std::ranges::max_element(times));
    samples.node_bytes.push_back(std::accumulate(more.begin(), more.end(), 0.0));
    samples.patterns = samples.bytes = 0;
    for (const auto& [key, pattern] : cache.entries()) {
      if (*pattern != *ra::make_indices(key)) throw std::runtime_error("a shared pattern is another one");
      ++samples.patterns;
      samples.bytes += pattern->all_rows().size_bytes();
    }
    quiet_barrier(group_->communicator());
  }

  const MpiGroup* group_;
  ra::AttentionConfig config_;
};

/// Collective over the group; prints on its first rank.
inline nlohmann::json measure_pattern_sharing(const MpiGroup& group, int rounds) {
  const auto samples = PatternSharing(group).take(rounds);
  const auto& [shared, apart] = samples;
  const auto median = [](const std::vector<double>& values) { return summarize(values).median; };
  if (group.rank() == 0) {
    std::printf("\npatterns of 2^26 tokens, %zu of %s, %d ranks on %d node%s\n", shared.patterns,
                format_bytes(static_cast<double>(shared.bytes)).c_str(), group.size(), group.nodes(),
                group.nodes() == 1 ? "" : "s");
    std::printf("%-28s %14s %14s\n", "", "first lookups", "memory, nodes");
    std::printf("%-28s %14s %14s\n", "computed once per node", format_seconds(median(shared.seconds)).c_str(),
                format_bytes(median(shared.node_bytes)).c_str());
    std::printf("%-28s %14s %14s\n", "computed by every rank", format_seconds(median(apart.seconds)).c_str(),
                format_bytes(median(apart.node_bytes)).c_str());
    std::fflush(stdout);
  }
  const auto describe = [](const PatternSharing::Samples& way) {
    return nlohmann::json{{"seconds", to_json(summarize(way.seconds))},
                          {"bytes_of_all_ranks", to_json(summarize(way.node_bytes))}};
  };
  return {{"tokens", 1 << 26},
          {"patterns", shared.patterns},
          {"pattern_bytes", shared.bytes},
          {"ranks", group.size()},
          {"nodes", group.nodes()},
          {"once_per_node", describe(shared)},
          {"by_every_rank", describe(apart)}};
}

}  // namespace benchmarks
