// Prints, as Markdown, what a forward pass of LongNet over a ring of 8 to 4,096 ranks would take by the cost
// model of docs/guides/SCALING.md. `--help` lists the options.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <ring_attention/config.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include "../examples/support/command_line.hpp"
#include "support/ring_model.hpp"

namespace {

namespace ra = ring_attention;
using benchmarks::ModelledTime;
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
    const auto read = [&arguments]<class Number>(const char* name, Number& target) {
      if constexpr (std::is_same_v<Number, std::vector<std::int64_t>>) {
        if (arguments.has(name)) target = arguments.list(name);
        for (const std::int64_t value : target) require_positive(name, value);
      } else {
        target = arguments.number<Number>(name).value_or(target);
        require_positive(name, target);
      }
    };
    read("--heads", heads);
    read("--head-dim", head_dim);
    read("--scalar-bytes", scalar_bytes);
    read("--gflops", gflops);
    read("--planning-us", planning_us);
    read("--packing-gb", packing_gb);
    read("--tokens", tokens);
    read("--ranks", ranks);
  }

  template <class Number>
  static void require_positive(const std::string& name, Number value) {
    if (!(value > 0)) throw command_line::Error(name + " must be positive");
  }

  std::int64_t heads = 16, head_dim = 64, scalar_bytes = 4;
  double gflops = 3200, planning_us = 15, packing_gb = 10;
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

/// Three digits and a unit: "12.3 ms" of 0.0123 and units of thousands.
std::string with_unit(double value, const std::vector<const char*>& units) {
  std::size_t unit = 0;
  for (; value >= 999.5 && unit + 1 < units.size(); ++unit) value /= 1000;
  char text[32];
  std::snprintf(text, sizeof text,
                value >= 99.95   ? "%.0f %s"
                : value >= 9.995 ? "%.1f %s"
                                 : "%.2f %s",
                value, units[unit]);
  return text;
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
  const std::int64_t rank = model.busiest_sender();
  const auto row_bytes = static_cast<double>(options.heads * options.head_dim * options.scalar_bytes);
  const auto shard = static_cast<double>(model.shard_size(rank));
  const benchmarks::RingTraffic traffic = model.traffic(rank);
  const double sent = 2.0 * static_cast<double>(options.head_dim * options.scalar_bytes) * traffic.rows;
  const double dense = 2.0 * row_bytes * shard * static_cast<double>(ranks - 1);
  char part[32];
  std::snprintf(part, sizeof part, "%.2g %%", dense > 0 ? 100 * sent / dense : 0.0);
  std::string line = "| " + grouped(tokens) + " | " + grouped(ranks) + " | " + bytes(4 * row_bytes * shard) +
                     " | " + bytes(sent) + " | " + part + " | " + grouped(std::llround(traffic.messages)) +
                     " |";
  bool first = true;
  for (const Network& network : networks) {
    const ModelledTime time =
        benchmarks::model_forward(model, rank, ranks, options.head_dim, options.scalar_bytes,
                                  {options.gflops * 1e9, network.bits_per_second / 8, network.message_seconds,
                                   options.planning_us * 1e-6, options.packing_gb * 1e9});
    if (first) line += " " + seconds(time.compute_seconds) + " |";
    first = false;
    char ratio[32];
    std::snprintf(ratio, sizeof ratio, "%.2f", time.seconds / time.compute_seconds);
    line += std::string(" ") + ratio + " |";
  }
  std::printf("%s\n", line.c_str());
}

void print_table(const Options& options) {
  std::printf("| tokens | ranks | tensors / rank | sent / rank | of dense | messages | computing |");
  for (const Network& network : networks) std::printf(" %s |", network.name);
  std::printf("\n|---:|---:|---:|---:|---:|---:|---:|");
  for (std::size_t i = 0; i < std::size(networks); ++i) std::printf("---:|");
  std::printf("\n");
  for (const std::int64_t tokens : options.tokens) {
    for (const std::int64_t ranks : options.ranks) print_line(options, tokens, ranks);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const command_line::Arguments arguments(argc, argv,
                                            {"--heads", "--head-dim", "--scalar-bytes", "--gflops",
                                             "--planning-us", "--packing-gb", "--tokens", "--ranks"},
                                            {"--help", "-h"});
    if (arguments.has("--help") || arguments.has("-h")) {
      std::fputs(help_text, stdout);
    } else {
      print_table(Options(arguments));
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "scaling_table: %s\n", error.what());
    return 1;
  }
}
