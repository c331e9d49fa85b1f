// Prints, as Markdown, what a forward pass of LongNet over a ring of 8 to 4,096 ranks would take by the cost
// model of docs/guides/SCALING.md. `--help` lists the options.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <ring_attention/config.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/program.hpp"
#include "support/ring_model.hpp"

namespace {

namespace ra = ring_attention;
using benchmarks::RingModel;

constexpr const char* help_text =
    R"(scaling_table: what a forward pass of LongNet over many ranks would take, by the model of docs/guides/SCALING.md

usage: scaling_table [--heads H] [--head-dim D] [--scalar-bytes B] [--gflops X]
                     [--planning-us T] [--packing-gb X] [--tokens N,N,...] [--ranks P,P,...]

  --heads H              default 16
  --head-dim D           default 64
  --scalar-bytes B       bytes of a number (default 4: float)
  --gflops X             what a rank computes per second with all of its cores (default 3200: 32 cores of 100)
  --planning-us T        microseconds in which one thread prepares a step (default 15)
  --packing-gb X         GB per second that one thread copies into messages (default 10)
  --tokens N,N,...       default 1000000,10000000,100000000,1000000000
  --ranks P,P,...        default 8,64,512,4096
  --help

Branches: segments of 2,048, 4,096, 8,192 ... tokens up to the whole sequence, at rates 1, 2, 4 ..., longnet_preset,
contiguous shards, not causal. Networks: 10 Gbit/s with 30 us per message, 100 with 5, 400 with 2, each way at once.
)";

struct Network {
  const char* name;
  double bits_per_second;
  double message_seconds;
};
constexpr Network networks[] = {
    {"10 Gbit/s", 10e9, 30e-6}, {"100 Gbit/s", 100e9, 5e-6}, {"400 Gbit/s", 400e9, 2e-6}};

/// What the command line says; throws command_line::Error.
struct Options {
  explicit Options(const command_line::Arguments& arguments) {
    const auto list = [&arguments](const char* name, std::vector<std::int64_t>& target) {
      if (arguments.has(name)) target = arguments.list(name);
      for (const std::int64_t value : target) {
        if (value < 1) throw command_line::Error(std::string(name) + ": numbers must be positive");
      }
    };
    list("--tokens", tokens);
    list("--ranks", ranks);
    heads = arguments.positive<std::int64_t>("--heads").value_or(16);
    head_dim = arguments.positive<std::int64_t>("--head-dim").value_or(64);
    scalar_bytes = arguments.positive<std::int64_t>("--scalar-bytes").value_or(4);
    gflops = arguments.positive<double>("--gflops").value_or(3200);
    planning_us = arguments.positive<double>("--planning-us").value_or(15);
    packing_gb = arguments.positive<double>("--packing-gb").value_or(10);
  }

  std::int64_t heads = 0, head_dim = 0, scalar_bytes = 0;
  double gflops = 0, planning_us = 0, packing_gb = 0;
  std::vector<std::int64_t> tokens{1'000'000, 10'000'000, 100'000'000, 1'000'000'000};
  std::vector<std::int64_t> ranks{8, 64, 512, 4096};
};

/// LongNet's geometric series of branches, the last one as long as the sequence: every branch keeps 2,048
/// rows of a segment.
ra::AttentionConfig longnet_up_to(std::int64_t tokens) {
  ra::AttentionConfig config = ra::longnet_preset();
  for (std::int64_t w = 2048, r = 1;; w *= 2, r *= 2) {
    config.segment_lengths.push_back(w);
    config.dilation_rates.push_back(r);
    if (w >= tokens) return config;
  }
}

std::string formatted(const char* form, double value) {
  char text[32];
  std::snprintf(text, sizeof text, form, value);
  return text;
}

/// Three digits and a unit: "12.3 ms" of 0.0123 and units of thousands.
std::string with_unit(double value, const std::vector<const char*>& units) {
  std::size_t unit = 0;
  for (; value >= 999.5 && unit + 1 < units.size(); ++unit) value /= 1000;
  return formatted(value >= 99.95 ? "%.0f " : value >= 9.995 ? "%.1f " : "%.2f ", value) + units[unit];
}
std::string seconds(double value) { return with_unit(value * 1e6, {"us", "ms", "s", "ks"}); }
std::string bytes(double value) { return with_unit(value * 1e-3, {"kB", "MB", "GB", "TB"}); }

std::string grouped(std::int64_t value) {
  std::string text = std::to_string(value);
  for (std::size_t at = text.size(); at > 3;) text.insert(at -= 3, ",");
  return text;
}

void print_line(const Options& options, std::int64_t tokens, std::int64_t ranks) {
  const RingModel model(longnet_up_to(tokens), tokens, options.heads, ranks);
  // The rank that sends the most; of a large ring, of 64 that are spread evenly.
  std::int64_t rank = 0;
  std::vector<benchmarks::RingStep> steps;
  double rows = -1;
  for (std::int64_t i = 0, tried = std::min<std::int64_t>(ranks, 64); i < tried; ++i) {
    const std::int64_t candidate = i * ranks / tried;
    std::vector<benchmarks::RingStep> found = model.steps(candidate);
    double sent = 0;
    for (const benchmarks::RingStep& step : found) sent += step.rows_sent;
    if (sent <= rows) continue;
    rows = sent;
    rank = candidate;
    steps = std::move(found);
  }
  const auto row_bytes = static_cast<double>(options.heads * options.head_dim * options.scalar_bytes);
  const auto shard = static_cast<double>(model.shard_size(rank));
  const double sent = 2.0 * static_cast<double>(options.head_dim * options.scalar_bytes) * rows;
  const double dense = 2.0 * row_bytes * shard * static_cast<double>(ranks - 1);
  const auto messages = std::ranges::count_if(steps, [](const auto& step) { return step.rows_sent > 0; });
  std::string line = "| " + grouped(tokens) + " | " + grouped(ranks) + " | " + bytes(4 * row_bytes * shard) +
                     " | " + bytes(sent) + " | " +
                     formatted("%.2g %%", dense > 0 ? 100 * sent / dense : 0.0) + " | " + grouped(messages) +
                     " |";
  double computing = 0;
  std::string ratios;
  for (const Network& network : networks) {
    const benchmarks::ModelledTime time =
        benchmarks::model_forward(steps, options.head_dim, options.scalar_bytes,
                                  {options.gflops * 1e9, network.bits_per_second / 8, network.message_seconds,
                                   options.planning_us * 1e-6, options.packing_gb * 1e9});
    computing = time.compute_seconds;
    ratios += formatted(" %.2f |", time.seconds / computing);
  }
  std::printf("%s %s |%s\n", line.c_str(), seconds(computing).c_str(), ratios.c_str());
}

int print_table(const command_line::Arguments& arguments) {
  const Options options(arguments);
  std::printf("| tokens | ranks | tensors / rank | sent / rank | of dense | messages | computing |");
  for (const Network& network : networks) std::printf(" %s |", network.name);
  std::printf("\n|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n");
  for (const std::int64_t tokens : options.tokens) {
    for (const std::int64_t ranks : options.ranks) print_line(options, tokens, ranks);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return benchmarks::run_program("scaling_table", help_text, argc, argv,
                                 {"--heads", "--head-dim", "--scalar-bytes", "--gflops", "--planning-us",
                                  "--packing-gb", "--tokens", "--ranks"},
                                 {}, print_table);
}
