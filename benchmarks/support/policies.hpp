// The three cache policies under one set of operations: names, cold starts, counters.
#pragma once

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <ring_attention/pattern/cache_policy.hpp>
#include <string_view>
#include <type_traits>
#include <vector>

namespace benchmarks {

namespace ra = ring_attention;

template <class Policy>
constexpr std::string_view policy_name() {
  if constexpr (std::is_same_v<Policy, ra::use_pattern_cache>) return "global";
  if constexpr (std::is_same_v<Policy, ra::use_local_cache>) return "local";
  if constexpr (std::is_same_v<Policy, ra::use_no_cache>) return "none";
}

/// Calls `action` once for each policy: action.template operator()<Policy>().
template <class Action>
void for_each_policy(Action action) {
  action.template operator()<ra::use_local_cache>();
  action.template operator()<ra::use_pattern_cache>();
  action.template operator()<ra::use_no_cache>();
}

/// Counters of the cache behind a policy; zeros without a cache.
template <class Policy>
ra::PatternCacheStats cache_stats(const Policy& policy) {
  if constexpr (std::is_same_v<Policy, ra::use_pattern_cache>) return ra::get_global_pattern_cache().stats();
  if constexpr (std::is_same_v<Policy, ra::use_local_cache>) return policy.stats();
  return {};
}

/// Lookups that found nothing, since the counters of the cache began; 0 without a cache.
template <class Policy>
std::uint64_t misses(const Policy& policy) {
  return cache_stats(policy).misses;
}

/// Computes patterns and writes down which were asked for.
class record_keys {
 public:
  ra::PatternCache::Pattern dilated_indices(const ra::PatternKey& key) const {
    keys_->push_back(key);
    return ra::make_dilated_indices(key);
  }
  const std::vector<ra::PatternKey>& keys() const { return *keys_; }

 private:
  std::shared_ptr<std::vector<ra::PatternKey>> keys_ = std::make_shared<std::vector<ra::PatternKey>>();
};

template <class Policy>
void look_up(const Policy& policy, const std::vector<ra::PatternKey>& keys) {
  for (const ra::PatternKey& key : keys) {
    const auto pattern = policy.dilated_indices(key);
    benchmark::DoNotOptimize(pattern.get());
  }
}

}  // namespace benchmarks
