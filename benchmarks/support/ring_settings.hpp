// What a run of benchmark_mpi_ring measures, and the command line that says so.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "../../examples/support/command_line.hpp"
#include "attention_patterns.hpp"

namespace benchmarks {

/// One point of a series.
struct RingCase {
  std::string name;    ///< "strong/longnet-49152x4/ranks2"
  std::string series;  ///< "strong" or "weak"
  int ranks = 1;
  Configuration problem;
};

struct RingSettings {
  bool help = false;
  bool list = false;
  bool quick = false;
  std::vector<std::string> filters;  ///< every one must be found in the name of a case
  std::filesystem::path json;        ///< empty: a name with the time, beside the program
  int rounds = 9;
  int threads = 1;  ///< of a rank
  ra::ShardLayout layout = ra::ShardLayout::contiguous;
  bool causal = false;
  bool shared_memory = true;  ///< between ranks of a machine; else MPI moves all bytes

  bool selects(const std::string& name) const {
    return std::all_of(filters.begin(), filters.end(),
                       [&name](const std::string& filter) { return name.find(filter) != name.npos; });
  }

  /// Every case for a job of `world` ranks that the filters let through.
  std::vector<RingCase> cases(int world) const {
    const std::int64_t heads = quick ? 1 : 4;
    std::vector<RingCase> found;
    const auto add_series = [&](const std::string& series, const auto& problem_of) {
      for (int ranks = 1;; ranks = std::min(2 * ranks, world)) {
        Configuration problem = problem_of(ranks);
        problem.config.shard_layout = layout;
        problem.config.causal = causal;
        const std::string name = series + "/" + problem.name + "/ranks" + std::to_string(ranks);
        if (selects(name)) found.push_back({name, series, ranks, problem});
        if (ranks == world) return;
      }
    };
    add_series("strong", [&](int) { return longnet(49152, heads, {64}); });
    add_series("strong", [&](int) { return dense(quick ? 4096 : 8192, heads, {64}); });
    add_series("weak", [&](int ranks) { return longnet(24576 * ranks, heads, {64}); });
    return found;
  }
};

inline constexpr const char* ring_help_text =
    R"(benchmark_mpi_ring: the ring over MPI: scaling, how much of the exchange is hidden, and bytes

usage: mpirun -n RANKS benchmark_mpi_ring [--quick] [--filter TEXT[,TEXT...]] [--rounds N] [--threads N] [--json FILE]

On the first 1, 2, 4 ... ranks of the job, and on all, one forward pass in float, heads of 64:
  strong/longnet-49152x4   segments of 2,048 to 32,768 tokens at rates 1 to 16, longnet_preset; one of
                           32,768 spans two shards
  strong/dense-8192x4      every query meets every key, so that every row travels to every rank
  weak/longnet             24,576 tokens per rank
and, on all ranks, patterns-per-node: time of the first lookups and memory of the nodes, where the ranks of a node share
patterns and where every rank computes them.
In each round it times, in turn, the call; its computing alone (the exchange is turned off: messages are taken from a
buffer of the rank's own); and its messages alone (those of the call, moved in the same order between buffers).

  --quick          one head in place of 4, dense-4096, 5 rounds
  --filter TEXT    only cases whose name contains TEXT; of several texts, separated by commas, every one. Names are as
                   strong/longnet-49152x4/ranks2
  --list           print the names and end
  --rounds N       default 9
  --threads N      threads of a rank (default 1)
  --layout LAYOUT  contiguous (default) or zigzag
  --causal         keys after the query are hidden
  --no-shared-memory
                   messages between ranks of a machine go through MPI, too
  --json FILE      where the results go (default: benchmark_mpi_ring_results-<UTC time>.json beside this program)
  --help

Figures are medians over the rounds, with the range. The time of a case is that of the slowest rank. Overlap efficiency
is the time of the call over the longer of computing and messages alone. Where ranks outnumber cores they share them, in
all three measurements. The peak rate of multiply-adds is measured on all ranks at once before and after each round;
rounds whose two peaks differ by more than 7 % are dropped, and "noisy" marks cases that have fewer than asked for.
"gain" is the part of the peak over that with one rank: 1 where ranks gain as much as the cores do; "of model" is the time
over that of the model in docs/guides/SCALING.md. Both are told where every thread has a core. Bytes are payload, compared
with a dense ring, in which every row of keys and values goes to every other rank, and with the most that the library
promises to send.

Every case is first checked: against one process at 1/32 of its size, and some rows at full size against a float64
evaluation; and every rank must send what the plan says, and no more than promised. Exit status 0 only
where every check held.
)";

/// Throws command_line::Error.
inline RingSettings parse_ring_settings(int argc, const char* const* argv) {
  const command_line::Arguments arguments(
      argc, argv, {"--filter", "--rounds", "--threads", "--layout", "--json"},
      {"--quick", "--list", "--causal", "--no-shared-memory", "--help", "-h"});
  RingSettings settings;
  settings.help = arguments.has("--help") || arguments.has("-h");
  settings.list = arguments.has("--list");
  settings.quick = arguments.has("--quick");
  settings.causal = arguments.has("--causal");
  settings.shared_memory = !arguments.has("--no-shared-memory");
  settings.json = arguments.text("--json");
  for (std::string rest = arguments.text("--filter"); !rest.empty();) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    settings.filters.push_back(rest.substr(0, comma));
    rest.erase(0, comma + 1);
  }
  settings.rounds = arguments.number<int>("--rounds").value_or(settings.quick ? 5 : settings.rounds);
  settings.threads = arguments.number<int>("--threads").value_or(settings.threads);
  if (settings.rounds < 1) throw command_line::Error("--rounds must be positive");
  if (settings.threads < 1) throw command_line::Error("--threads must be positive");
  arguments.choose<ra::ShardLayout>(
      "--layout", {{"contiguous", ra::ShardLayout::contiguous}, {"zigzag", ra::ShardLayout::zigzag}},
      settings.layout);
  return settings;
}

}  // namespace benchmarks
