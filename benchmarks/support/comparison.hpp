// The same thing measured for the three policies, or cold and warm: ratios, and whether they mean anything.
#pragma once

#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "collecting_reporter.hpp"
#include "format.hpp"
#include "statistics.hpp"

namespace benchmarks {

/// What a ratio of medians says, in words.
inline std::string verdict(const Summary& base, const Summary& other, const std::string& other_name) {
  if (base.count == 0 || other.count == 0) return "not measured";
  if (!differ(base, other)) return "no measurable difference";
  return other_name + (other.median < base.median ? " faster" : " slower");
}

/// One line of the summary: seconds of local, global and no cache.
struct PolicyComparison {
  std::string what;
  Summary local, global, none;

  double speedup() const { return local.median / global.median; }

  nlohmann::json to_json() const {
    return {{"what", what},
            {"local", benchmarks::to_json(local)},
            {"global", benchmarks::to_json(global)},
            {"none", benchmarks::to_json(none)},
            {"speedup_global_over_local", speedup()},
            {"speedup_global_over_none", none.median / global.median},
            {"global_against_local", verdict(local, global, "global")},
            {"global_against_none", verdict(none, global, "global")}};
  }
};

/// Every case that was measured for each policy, group by group.
inline std::vector<PolicyComparison> compare_policies(const CollectingReporter& reporter,
                                                      const std::vector<std::string>& groups) {
  const std::string mark = "/policy:local";
  std::vector<PolicyComparison> result;
  for (const std::string& group : groups) {
    for (const auto& [name, unused] : reporter.seconds()) {
      if (!name.starts_with(group) || !name.ends_with(mark)) continue;
      const std::string what = name.substr(0, name.size() - mark.size());
      const Summary global = reporter.of(what + "/policy:global");
      const Summary none = reporter.of(what + "/policy:none");
      if (global.count > 0 && none.count > 0) result.push_back({what, reporter.of(name), global, none});
    }
  }
  return result;
}

/// Cold against warm for each case that was measured both ways.
inline nlohmann::json compare_cold_and_warm(const CollectingReporter& reporter) {
  const std::string mark = "/cache:cold";
  nlohmann::json result = nlohmann::json::array();
  for (const auto& [name, unused] : reporter.seconds()) {
    const std::size_t at = name.find(mark);
    if (at == std::string::npos) continue;
    const std::string rest = name.substr(at + mark.size());
    const Summary cold = reporter.of(name);
    const Summary warm = reporter.of(name.substr(0, at) + "/cache:warm" + rest);
    if (warm.count == 0) continue;
    result.push_back({{"what", name.substr(0, at) + rest},
                      {"cold", to_json(cold)},
                      {"warm", to_json(warm)},
                      {"speedup_warm_over_cold", cold.median / warm.median},
                      {"warm_against_cold", verdict(cold, warm, "warm")}});
  }
  return result;
}

/// What local caches cost beyond the global one, case by case.
inline nlohmann::json compare_memory(const nlohmann::json& cases) {
  nlohmann::json result = nlohmann::json::array();
  for (const auto& local : cases) {
    if (local["policy"] != "local") continue;
    for (const auto& global : cases) {
      nlohmann::json line;
      bool same = global["policy"] == "global";
      for (const char* key : {"class", "n", "ring_size", "layers", "heads", "head_dim"}) {
        same = same && global[key] == local[key];
        line[key] = local[key];
      }
      if (!same) continue;
      for (const char* key : {"cache_bytes", "peak_minus_baseline_bytes"}) {
        line[std::string("local_") + key] = local[key];
        line[std::string("global_") + key] = global[key];
      }
      line["cache_bytes_reduction"] =
          local["cache_bytes"].get<double>() / global["cache_bytes"].get<double>();
      result.push_back(std::move(line));
    }
  }
  return result;
}

inline void print_table(const std::vector<PolicyComparison>& comparisons, const nlohmann::json& memory) {
  std::printf("\n%-44s %10s %10s %10s %12s  %s\n", "median time", "local", "global", "none", "local/global",
              "global against local");
  for (const PolicyComparison& line : comparisons) {
    std::printf("%-44s %10s %10s %10s %12.3f  %s\n", line.what.c_str(),
                format_seconds(line.local.median).c_str(), format_seconds(line.global.median).c_str(),
                format_seconds(line.none.median).c_str(), line.speedup(),
                verdict(line.local, line.global, "global").c_str());
  }
  std::printf("\n%-44s %10s %10s %12s  %s\n", "memory: held by pattern caches", "local", "global",
              "local/global", "peak above the inputs: local, global");
  for (const auto& line : memory) {
    const auto number = [&line](const char* key) {
      return line[key].is_null() ? NAN : line[key].get<double>();
    };
    const std::string what = line["class"].get<std::string>() + "/n:" + line["n"].dump() +
                             "/ring:" + line["ring_size"].dump() + "/layers:" + line["layers"].dump() +
                             "/heads:" + line["heads"].dump() + "x" + line["head_dim"].dump();
    std::printf("%-44s %10s %10s %12.2f  %s, %s\n", what.c_str(),
                format_bytes(number("local_cache_bytes")).c_str(),
                format_bytes(number("global_cache_bytes")).c_str(), number("cache_bytes_reduction"),
                format_bytes(number("local_peak_minus_baseline_bytes")).c_str(),
                format_bytes(number("global_peak_minus_baseline_bytes")).c_str());
  }
}

}  // namespace benchmarks
