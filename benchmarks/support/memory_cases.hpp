// Peak memory of forward calls and the hits of their lookups, each case in a process of its own so that none
// hides another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "attention_classes.hpp"
#include "child_process.hpp"
#include "settings.hpp"
#include "workload.hpp"

namespace benchmarks {

/// Command-line word that makes this program measure one memory case, print it as JSON and end.
inline constexpr std::string_view memory_case_argument = "--internal-memory-case";

struct MemoryCase {
  std::string policy;
  std::int64_t n;
  std::int64_t ring_size;
  int layers;
  Workload workload;
  int threads;
  std::string attention_class = std::string(V2::name);

  std::vector<std::string> arguments() const {
    return {std::string(memory_case_argument),
            policy,
            std::to_string(n),
            std::to_string(ring_size),
            std::to_string(layers),
            std::to_string(workload.heads),
            std::to_string(workload.head_dim),
            std::to_string(threads),
            attention_class};
  }
};

template <class Class, class Policy>
nlohmann::json measure_memory_here(const MemoryCase& what) {
  ra::set_num_threads(what.threads);
  Buffers buffers(what.workload, what.n);
  const auto before = peak_resident_bytes();
  std::vector<decltype(Class::template make<Policy>(what.ring_size))> layers;
  ra::PatternCacheStats held;  // by all caches together
  for (int i = 0; i < what.layers; ++i) {
    layers.push_back(Class::template make<Policy>(what.ring_size));
    Class::forward(*layers.back(), buffers, what.n);
    const ra::PatternCacheStats stats = cache_stats(layers.back()->cache_policy());
    if (!std::is_same_v<Policy, ra::use_local_cache>) held = {};
    held.bytes += stats.bytes;
    held.hits += stats.hits;
    held.misses += stats.misses;
  }
  const auto after = peak_resident_bytes();
  nlohmann::json result{{"class", what.attention_class},
                        {"policy", what.policy},
                        {"n", what.n},
                        {"ring_size", what.ring_size},
                        {"layers", what.layers},
                        {"heads", what.workload.heads},
                        {"head_dim", what.workload.head_dim},
                        {"cache_bytes", held.bytes},
                        {"hits", held.hits},
                        {"misses", held.misses},
                        {"baseline_bytes", nullptr},
                        {"peak_bytes", nullptr},
                        {"peak_minus_baseline_bytes", nullptr}};
  if (before && after) {
    result["baseline_bytes"] = *before;
    result["peak_bytes"] = *after;
    result["peak_minus_baseline_bytes"] = *after - *before;
  }
  return result;
}

/// The child's side: `argv[1]` is memory_case_argument. Returns the exit status.
inline int run_memory_case(int argc, char** argv) {
  if (argc != 10) return 2;
  const auto number = [&](int i) { return std::stoll(argv[i]); };
  const MemoryCase what{argv[2],
                        number(3),
                        number(4),
                        static_cast<int>(number(5)),
                        {.heads = number(6), .head_dim = number(7)},
                        static_cast<int>(number(8)),
                        argv[9]};
  nlohmann::json result;
  for_each_class([&]<class Class>() {
    for_each_policy([&]<class Policy>() {
      const bool asked = policy_name<Policy>() == what.policy && Class::name == what.attention_class;
      if (asked) result = measure_memory_here<Class, Policy>(what);
    });
  });
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

/// Every memory case, one child process after the other.
inline nlohmann::json measure_memory(const Settings& settings) {
  std::vector<MemoryCase> cases;
  for_each_policy([&]<class Policy>() {
    const std::string policy(policy_name<Policy>());
    for (const std::int64_t n : settings.lengths) {
      for (const std::int64_t ring_size : settings.ring_sizes) {
        cases.push_back({policy, n, ring_size, 1, settings.workload, settings.threads});
      }
    }
    for (const int layers : settings.layer_counts) {
      if (std::is_same_v<Policy, ra::use_no_cache> && layers > 1)
        continue;  // holds nothing, however many layers
      cases.push_back({policy, settings.lengths.front(), settings.ring_sizes.front(), layers,
                       settings.memory_workload, settings.threads});
    }
    for_each_class([&]<class Class>() {
      if (Class::name == V2::name) return;
      cases.push_back({policy, settings.lengths.front(), settings.ring_sizes.front(), 1, settings.workload,
                       settings.threads, std::string(Class::name)});
    });
  });
  nlohmann::json results = nlohmann::json::array();
  for (const MemoryCase& what : cases) {
    nlohmann::json result = nlohmann::json::parse(run_self(what.arguments()));
    const auto& peak = result["peak_minus_baseline_bytes"];
    std::fprintf(
        stderr, "  memory %s n=%lld ring=%lld layers=%d %s: caches %.1f KiB, peak %s above the inputs\n",
        what.attention_class.c_str(), static_cast<long long>(what.n), static_cast<long long>(what.ring_size),
        what.layers, what.policy.c_str(), result["cache_bytes"].get<double>() / 1024.0,
        peak.is_null() ? "unknown" : (std::to_string(peak.get<std::int64_t>() / 1024) + " KiB").c_str());
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace benchmarks
