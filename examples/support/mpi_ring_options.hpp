// The command line of mpi_ring: what it may say, its help text, and the configuration that results from it.
#pragma once

#include <cstdint>
#include <ring_attention/config.hpp>

#include "command_line.hpp"

namespace examples {

namespace ra = ring_attention;

struct MpiRingOptions {
  bool help = false;
  std::int64_t tokens = 1'000'000;
  std::int64_t heads = 4;
  std::int64_t head_dim = 64;
  std::int64_t samples = 4;  ///< rows that each rank checks
  int threads = 0;           ///< of a rank; 0: its part of the node's cores
  ra::AttentionConfig config = ra::longnet_preset();
};

inline constexpr const char* mpi_ring_help =
    R"(mpi_ring: dilated attention over a sequence that is spread over the ranks of an MPI job

usage: mpirun -n RANKS mpi_ring [options]

Each rank makes its own tokens of q, k and v (float), runs one forward pass of RingDistributedDilatedAttention and
checks some of its rows against a float64 evaluation. Rank 0 prints a line at every step of the ring, then tokens per
second and how much the ranks sent. Exit status 0 only where every checked row is right.

  --tokens N            length of the whole sequence (default 1000000)
  --heads H             default 4
  --head-dim D          default 64
  --segments W,W,...    segment length of each branch, in tokens (default 2048,16384,131072,1048576)
  --rates R,R,...       dilation rate of each branch (default 1,4,16,64)
  --preset NAME         longnet (default: every head runs every branch, kept queries only) or ring (each head runs one
                        branch, every query)
  --causal              keys after the query are hidden
  --layout LAYOUT       contiguous (default) or zigzag, which balances causal work
  --threads N           threads of a rank (default: the cores of its node, divided by the node's ranks)
  --samples N           rows that each rank checks, over all heads (default 4)
  --help

The defaults take less than half a minute on two cores with AVX-512, and 4.2 GB of memory in all.
)";

/// Throws command_line::Error, or std::invalid_argument for a configuration that breaks a rule.
inline MpiRingOptions parse_mpi_ring_options(int argc, const char* const* argv) {
  const command_line::Arguments arguments(argc, argv,
                                          {"--tokens", "--heads", "--head-dim", "--segments", "--rates",
                                           "--preset", "--layout", "--threads", "--samples"},
                                          {"--causal", "--help", "-h"});
  MpiRingOptions options;
  options.help = arguments.has("--help") || arguments.has("-h");
  options.tokens = arguments.positive<std::int64_t>("--tokens").value_or(options.tokens);
  options.heads = arguments.positive<std::int64_t>("--heads").value_or(options.heads);
  options.head_dim = arguments.positive<std::int64_t>("--head-dim").value_or(options.head_dim);
  options.threads = arguments.positive<int>("--threads").value_or(options.threads);
  options.samples = arguments.number<std::int64_t>("--samples").value_or(options.samples);
  if (options.samples < 0) {
    throw command_line::Error("--samples = " + arguments.text("--samples") + ": must not be negative");
  }

  ra::AttentionConfig& config = options.config;
  arguments.choose<ra::AttentionConfig>(
      "--preset", {{"longnet", ra::longnet_preset()}, {"ring", ra::ring_preset()}}, config);
  arguments.choose<ra::ShardLayout>(
      "--layout", {{"contiguous", ra::ShardLayout::contiguous}, {"zigzag", ra::ShardLayout::zigzag}},
      config.shard_layout);
  if (arguments.has("--segments") != arguments.has("--rates")) {
    throw command_line::Error("--segments and --rates belong together: one rate per segment length");
  }
  config.segment_lengths = {2048, 16384, 131072, 1048576};
  config.dilation_rates = {1, 4, 16, 64};
  if (arguments.has("--segments")) {
    config.segment_lengths = arguments.list("--segments");
    config.dilation_rates = arguments.list("--rates");
  }
  config.causal = arguments.has("--causal");
  config.validate();
  return options;
}

}  // namespace examples
