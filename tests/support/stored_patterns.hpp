// Patterns to store, and every way to load them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <ring_attention/pattern/pattern_store.hpp>
#include <string>
#include <vector>

namespace test {

using KeyedPattern = ring_attention::PatternCache::KeyedPattern;

inline std::vector<KeyedPattern> make_patterns(const std::vector<ring_attention::PatternKey>& keys) {
  std::vector<KeyedPattern> patterns;
  for (const auto& key : keys) patterns.emplace_back(key, ring_attention::make_dilated_indices(key));
  return patterns;
}

/// Every shape of pattern: several branches, one without rows, an empty sequence, no branch at all.
inline std::vector<KeyedPattern> small_patterns() {
  return make_patterns(
      {{37, {8, 20}, {1, 3}, 0}, {64, {16, 4}, {2, 9}, 3}, {0, {4}, {1}, 0}, {9, {}, {}, 0}});
}

inline bool same_patterns(const std::vector<KeyedPattern>& a, const std::vector<KeyedPattern>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].first != b[i].first || *a[i].second != *b[i].second) return false;
  }
  return true;
}

struct WayToLoad {
  std::string name;
  bool maps;
  std::function<ring_attention::LoadReport(const std::filesystem::path&, ring_attention::PatternCache&)> load;
};

inline std::vector<WayToLoad> ways_to_load() {
  namespace ra = ring_attention;
  return {{"mapped", RING_ATTENTION_HAS_POSIX_FILES != 0,
           [](const auto& path, auto& cache) { return ra::PatternStore(path).load(cache); }},
          {"read", false,
           [](const auto& path, auto& cache) { return ra::PatternStore(path).load(cache, {.map = false}); }},
          {"read by the standard library", false, [](const auto& path, auto& cache) {
             return ra::detail::load_patterns<ra::detail::StandardInput>(path, cache, true);
           }}};
}

}  // namespace test
