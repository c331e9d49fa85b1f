// Counters and statistics as nlohmann::json. Needs nlohmann/json; not part of the core.
#pragma once

#include <ring_attention/requirements.hpp>
// First, because an older compiler may lack headers that others include.
#include <nlohmann/json.hpp>
#include <ring_attention/attention/production_options.hpp>
#include <ring_attention/pattern/pattern_cache.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// An object with a number for each field, by its name: `nlohmann::json(cache.stats())`.
inline void to_json(nlohmann::json& json, const PatternCacheStats& stats) {
  json = {{"hits", stats.hits},
          {"misses", stats.misses},
          {"insertions", stats.insertions},
          {"evictions", stats.evictions},
          {"entries", stats.entries},
          {"bytes", stats.bytes},
          {"device_bytes", stats.device_bytes}};
}

/// An object with a number for each field, by its name: `nlohmann::json(service.counters())`.
inline void to_json(nlohmann::json& json, const ProductionCounters& counters) {
  json = {{"forward_calls", counters.forward_calls},
          {"backward_calls", counters.backward_calls},
          {"tokens", counters.tokens},
          {"seconds", counters.seconds},
          {"workspace_bytes", counters.workspace_bytes},
          {"cache_hits", counters.cache_hits},
          {"cache_misses", counters.cache_misses}};
}

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
