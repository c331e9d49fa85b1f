// What a run measures, and the command line that says so.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "workload.hpp"

namespace benchmarks {

struct Settings {
  bool help = false;
  bool quick = false;
  std::filesystem::path out;
  int threads = 0;                         ///< 0: every core
  int repetitions = 0;                     ///< 0: as many as the time below allows
  std::string filter;                      ///< regular expression that names of timed cases must contain
  std::vector<std::string> for_benchmark;  ///< arguments for Google Benchmark itself

  std::vector<std::int64_t> lengths{16384, 32768, 65536};
  std::vector<std::int64_t> ring_sizes{4, 8};
  std::vector<int> contending_threads{1, 2, 4, 8, 16};
  std::vector<int> layer_counts{1, 6, 12, 24, 48};  ///< of the memory cases
  int model_layers = 24;
  Workload workload;
  /// Of the cases that count layers: small tensors, so that patterns show.
  Workload memory_workload{.heads = 3, .head_dim = 1};
  int forward_repetitions = 0;  ///< as many as the seconds below allow, within bounds
  int model_repetitions = 0;
  double forward_seconds = 600.0;
  double model_seconds = 300.0;
  int small_repetitions = 9;
  double small_seconds = 0.2;  ///< of one repetition of a small case
  int ratio_rounds = 1001;
  int ratio_lookups = 2000;

  /// Repetitions of the long cases, from the seconds that one repetition of all of them takes.
  void choose_repetitions(double forward_round, double model_round) {
    const auto choose = [](double seconds, double round, int least, int most) {
      return std::clamp(static_cast<int>(seconds / std::max(round, 1e-9)), least, most);
    };
    if (forward_repetitions == 0) forward_repetitions = choose(forward_seconds, forward_round, 5, 9);
    if (model_repetitions == 0) model_repetitions = choose(model_seconds, model_round, 3, 7);
  }

  nlohmann::json to_json() const {
    const ra::AttentionConfig config = Workload::config(1);
    return {{"class", "RingDilatedAttentionV2<float>"},
            {"preset", "ring"},
            {"segment_lengths", config.segment_lengths},
            {"dilation_rates", config.dilation_rates},
            {"sequence_lengths", lengths},
            {"ring_sizes", ring_sizes},
            {"batch", 1},
            {"heads", workload.heads},
            {"head_dim", workload.head_dim},
            {"layers_memory_heads", memory_workload.heads},
            {"layers_memory_head_dim", memory_workload.head_dim},
            {"threads", threads},
            {"quick", quick},
            {"repetitions", repetitions},
            {"filter", filter},
            {"forward_repetitions", forward_repetitions},
            {"model_repetitions", model_repetitions},
            {"small_repetitions", small_repetitions},
            {"patterns_time", "all patterns of one forward call"},
            {"lookup_time", "one lookup: wall time divided by the lookups of all contenders"},
            {"spread", "minimum and maximum of the repetitions"},
            {"difference",
             "told where these ranges do not overlap and the medians are further apart than either is wide"},
            {"order", "repetitions of the cases that are compared are interleaved at random"},
            {"clock", "steady"}};
  }
};

inline constexpr const char* help_text =
    R"(benchmark_ring_pattern_cache: what the pattern cache of RingDilatedAttentionV2 gains, and what it does not

usage: benchmark_ring_pattern_cache [--quick] [--out DIR] [--threads N] [--repetitions N]

  --quick          fewer heads, smaller heads, fewer repetitions; every sequence length is kept (a minute or two on 2 cores)
  --out DIR        where the results go (default: beside this program)
  --threads N      threads of a forward call (default: every core)
  --repetitions N  of every case
  --benchmark_filter=REGEX      time only the cases whose name matches
  --benchmark_context=KEY=TEXT  a remark for the results
  --help

It checks that use_pattern_cache (global), use_local_cache (local) and use_no_cache (none) give bitwise equal
outputs, then measures peak memory (a process per case), lookups, patterns, a model's first forward, and
cold and warm forward calls. Results: benchmark_ring_pattern_cache_results-<UTC time>.json, in Google Benchmark's
format with one more object, "ring_attention". Exit status 0 only if everything held.
)";

inline int parse_positive(const std::string& name, const std::string& text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1) {
    throw std::invalid_argument(name + " = \"" + text + "\": must be a positive integer");
  }
  return value;
}

/// Throws std::invalid_argument.
inline Settings parse_settings(int argc, char** argv) {
  Settings settings;
  settings.out = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == argc) throw std::invalid_argument(name + " needs a value");
      return argv[++i];
    };
    if (name == "--help" || name == "-h") {
      settings.help = true;
    } else if (name == "--quick") {
      settings.quick = true;
    } else if (name == "--out") {
      settings.out = value();
    } else if (name == "--threads") {
      settings.threads = parse_positive(name, value());
    } else if (name == "--repetitions") {
      settings.repetitions = parse_positive(name, value());
    } else if (name.starts_with("--benchmark_filter=")) {
      settings.filter = name.substr(name.find('=') + 1);
    } else if (name.starts_with("--benchmark_context=")) {
      settings.for_benchmark.push_back(name);
    } else {
      throw std::invalid_argument("unknown argument \"" + name + "\" (see --help)");
    }
  }
  if (settings.quick) {
    settings.workload = {.heads = 3, .head_dim = 8};
    settings.forward_seconds = 35.0;
    settings.model_seconds = 20.0;
    settings.small_repetitions = 5;
    settings.small_seconds = 0.02;
    settings.ratio_rounds = 301;
  }
  if (settings.repetitions > 0) {
    settings.forward_repetitions = settings.repetitions;
    settings.model_repetitions = settings.repetitions;
    settings.small_repetitions = settings.repetitions;
  }
  if (settings.threads > 0) ra::set_num_threads(settings.threads);
  settings.threads = ra::num_threads();
  return settings;
}

}  // namespace benchmarks
