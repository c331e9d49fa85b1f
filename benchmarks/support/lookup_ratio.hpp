// Warm lookups through the global cache against a local one, interleaved so that both see the same machine.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <vector>

#include "policies.hpp"
#include "settings.hpp"
#include "statistics.hpp"

namespace benchmarks {

inline constexpr double lookup_ratio_limit = 2.0;

struct LookupRatio {
  Summary ratio;   ///< global / local, one sample per round
  Summary global;  ///< seconds per lookup
  Summary local;
  bool within_limit() const { return ratio.count > 0 && ratio.median <= lookup_ratio_limit; }

  nlohmann::json to_json() const {
    nlohmann::json result = benchmarks::to_json(ratio);
    result["global_seconds"] = benchmarks::to_json(global);
    result["local_seconds"] = benchmarks::to_json(local);
    result["limit"] = lookup_ratio_limit;
    result["within_limit"] = within_limit();
    return result;
  }
};

template <class Policy>
double seconds_per_lookup(const Policy& policy, const std::vector<ra::PatternKey>& keys, int lookups) {
  const auto rounds = std::max<std::size_t>(1, static_cast<std::size_t>(lookups) / keys.size());
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < rounds; ++i) look_up(policy, keys);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return elapsed.count() / static_cast<double>(rounds * keys.size());
}

inline LookupRatio measure_lookup_ratio(const Settings& settings, const std::vector<ra::PatternKey>& keys) {
  const ra::use_pattern_cache global;
  const ra::use_local_cache local;
  look_up(global, keys);
  look_up(local, keys);
  std::vector<double> ratios, global_seconds, local_seconds;
  for (int round = 0; round < settings.ratio_rounds; ++round) {
    double a = 0.0, b = 0.0;
    if (round % 2 == 0) {
      a = seconds_per_lookup(global, keys, settings.ratio_lookups);
      b = seconds_per_lookup(local, keys, settings.ratio_lookups);
    } else {
      b = seconds_per_lookup(local, keys, settings.ratio_lookups);
      a = seconds_per_lookup(global, keys, settings.ratio_lookups);
    }
    ratios.push_back(a / b);
    global_seconds.push_back(a);
    local_seconds.push_back(b);
  }
  return {summarize(ratios), summarize(global_seconds), summarize(local_seconds)};
}

}  // namespace benchmarks
