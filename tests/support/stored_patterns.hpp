// Patterns to store, and every way to load them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <ring_attention/pattern/make_indices.hpp>
#include <ring_attention/pattern/pattern_store.hpp>
#include <string>
#include <vector>

namespace test {

using KeyedPattern = ring_attention::PatternCache::KeyedPattern;

inline std::vector<KeyedPattern> make_patterns(const std::vector<ring_attention::PatternKey>& keys) {
  std::vector<KeyedPattern> patterns;
  for (const auto& key : keys) patterns.emplace_back(key, ring_attention::make_indices(key));
  return patterns;
}

/// Every shape of pattern: several branches, one without rows, an empty sequence, no branch at all; lists of
/// blocks of every kind.
inline std::vector<KeyedPattern> small_patterns() {
  using Kind = ring_attention::PatternKind;
  return make_patterns({{37, {8, 20}, {1, 3}, 0},
                        {64, {16, 4}, {2, 9}, 3},
                        {0, {4}, {1}, 0},
                        {9, {}, {}, 0},
                        {5, {}, {}, 0, Kind::local_window, {0, 1}},
                        {6, {}, {1, 2, 2}, 0, Kind::dilated_sparse, {1, 2}},
                        {4, {}, {}, 0, Kind::global_local, {0, 1, 1}},
                        {3, {}, {}, 0, Kind::custom, {0, 0, 2, 2, 0, 2, 1}}});
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
