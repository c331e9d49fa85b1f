// Peak memory of forward calls and the hits of their lookups, each case in a process of its own so that none
// hides another; and a large pattern made anew against the same one checked and mapped from a PatternStore.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "cache_cases.hpp"
#include "cache_layers.hpp"
#include "measuring.hpp"

namespace benchmarks {

/// Command-line word that makes this program measure one memory case, print it as JSON and end.
inline constexpr std::string_view memory_case_argument = "--internal-memory-case";

/// The child's side: the case as JSON in `argv[2]`. Returns the exit status.
inline int run_memory_case(int argc, char** argv) {
  if (argc != 3) return 2;
  nlohmann::json result = nlohmann::json::parse(argv[2]);
  ra::set_num_threads(result["threads"]);
  const std::int64_t n = result["n"];
  const std::string policy_name = result["policy"], attention_class = result["class"];
  const PolicyUse& policy = *std::ranges::find(policies, policy_name, &PolicyUse::name);
  Buffers buffers(n, result["heads"], result["head_dim"]);
  const auto before = peak_resident_bytes();
  std::vector<Layer> layers;
  ra::PatternCacheStats held;  // by all caches together
  for (int i = 0; i < result["layers"]; ++i) {
    layers.push_back(policy.make_layer(attention_class, result["ring_size"], buffers));
    layers.back().forward(n);
    const ra::PatternCacheStats stats = layers.back().stats();
    if (policy_name != "local") held = {};
    held.bytes += stats.bytes;
    held.hits += stats.hits;
    held.misses += stats.misses;
  }
  const auto after = peak_resident_bytes();
  result["cache_bytes"] = held.bytes;
  result["hits"] = held.hits;
  result["misses"] = held.misses;
  result["peak_minus_baseline_bytes"] = nullptr;
  if (before && after) result["peak_minus_baseline_bytes"] = *after - *before;
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

/// The case with what it took. Throws std::runtime_error.
inline nlohmann::json measure_memory_case(const nlohmann::json& what) {
  // The case's text has no apostrophe, and this program's name need not be known.
  const std::string command = "/proc/" + std::to_string(::getpid()) + "/exe " +
                              std::string(memory_case_argument) + " '" + what.dump() + "'";
  FILE* pipe = ::popen(command.c_str(), "r");
  std::string text;
  for (int c = 0; pipe != nullptr && (c = std::fgetc(pipe)) != EOF;) text += static_cast<char>(c);
  if (pipe == nullptr || ::pclose(pipe) != 0)
    throw std::runtime_error("a child process failed: " + what.dump());
  return nlohmann::json::parse(text);
}

inline nlohmann::json measure_memory(const CacheSettings& settings) {
  nlohmann::json results = nlohmann::json::array();
  const auto measure = [&](const PolicyUse& policy, const std::string& name, std::int64_t n,
                           std::int64_t ring, int layers, std::int64_t heads, std::int64_t head_dim) {
    results.push_back(measure_memory_case({{"class", name},
                                           {"policy", policy.name},
                                           {"n", n},
                                           {"ring_size", ring},
                                           {"layers", layers},
                                           {"heads", heads},
                                           {"head_dim", head_dim},
                                           {"threads", settings.threads}}));
  };
  const std::int64_t shortest = settings.lengths.front(), ring = settings.ring_sizes.front();
  for (const PolicyUse& policy : policies) {
    for (const std::int64_t n : settings.lengths) {
      for (const std::int64_t size : settings.ring_sizes) {
        measure(policy, "V2", n, size, 1, settings.heads, settings.head_dim);
      }
    }
    for (const int layers : {1, 6, 12, 24, 48}) {         // of small tensors, so that patterns show
      if (policy.name == "none" && layers > 1) continue;  // holds nothing, however many layers
      measure(policy, "V2", shortest, ring, layers, 3, 1);
    }
    for (const std::string& name : all_classes) {
      if (name != "V2") measure(policy, name, shortest, ring, 1, settings.heads, settings.head_dim);
    }
  }
  return results;
}

/// Making, saving and loading one pattern of 2^24 rows by one thread, in turn; the file stays in the page
/// cache.
inline nlohmann::json measure_pattern_store(int rounds) {
  constexpr std::int64_t rows = std::int64_t{1} << 24;
  const ra::PatternKey key{.sequence_length = 2 * rows, .segment_lengths = {2 * rows}, .dilation_rates = {2}};
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("ring_attention_store_" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  std::vector<double> making, saving, loading;
  ra::LoadReport report;
  for (int round = 0; round < rounds; ++round) {
    const ra::PatternStore store(folder / "patterns");
    ra::PatternCache::Pattern pattern;
    making.push_back(seconds_of([&] { pattern = ra::make_dilated_indices(key); }));
    saving.push_back(seconds_of([&] { store.save({{key, pattern}}); }));
    pattern.reset();
    ra::PatternCache cache;
    loading.push_back(seconds_of([&] { report = store.load(cache); }));
    if (!report) break;
  }
  std::filesystem::remove_all(folder);
  if (!report) throw std::runtime_error("pattern store: " + report.text);
  return {{"rows", rows},
          {"pattern_bytes", rows * static_cast<std::int64_t>(sizeof(std::int64_t))},
          {"making_seconds", summarize(making)},
          {"saving_seconds", summarize(saving)},
          {"loading_seconds", summarize(loading)}};
}

}  // namespace benchmarks
