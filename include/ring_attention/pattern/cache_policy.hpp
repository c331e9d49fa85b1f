// How an attention class looks its patterns up, chosen by type. All policies give bitwise equal results.
#pragma once

#include <concepts>
#include <cstddef>
#include <memory>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/pattern/global_cache.hpp>
#include <ring_attention/pattern/make_indices.hpp>
#include <ring_attention/pattern/pattern_cache.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

namespace detail {

inline PatternCache::Pattern find_or_note(PatternCache& cache, const PatternKey& key, bool& computed) {
  return cache.find_or_compute(key, [&computed](const PatternKey& missing) {
    computed = true;
    return make_indices(missing);
  });
}

}  // namespace detail

/// Patterns are shared by every object of the process through the global cache, or through one that the
/// caller hands in and that must outlive the policy.
class use_pattern_cache {
 public:
  /// Through the global cache.
  use_pattern_cache() : cache_(&get_global_pattern_cache()) {}
  /// Through the caller's cache, which must outlive the policy.
  explicit use_pattern_cache(PatternCache& cache) : cache_(&cache) {}

  /// The pattern of a key, computed where the cache has none. Throws as make_indices.
  PatternCache::Pattern dilated_indices(const PatternKey& key) const {
    return cache_->find_or_compute(key, make_indices);
  }
  /// The same; sets `computed` where the pattern was not at hand.
  PatternCache::Pattern dilated_indices(const PatternKey& key, bool& computed) const {
    return detail::find_or_note(*cache_, key, computed);
  }
  /// The same; `make(key)` computes a pattern that is not at hand.
  template <std::invocable<const PatternKey&> Make>
  PatternCache::Pattern dilated_indices(const PatternKey& key, const Make& make) const {
    return cache_->find_or_compute(key, make);
  }

 private:
  PatternCache* cache_;
};

/// Each attention object keeps its own patterns: the baseline that the benchmark compares with. A copy of an
/// object starts with an empty cache.
class use_local_cache {
 public:
  /// `byte_limit` bounds the private cache.
  explicit use_local_cache(std::size_t byte_limit = PatternCache::default_byte_limit)
      : cache_(std::make_unique<PatternCache>(byte_limit)) {}
  /// An empty cache of the same limit.
  use_local_cache(const use_local_cache& other) : use_local_cache(other.cache_->byte_limit()) {}
  /// Begins again with an empty cache of the other's limit.
  use_local_cache& operator=(const use_local_cache& other) {
    cache_ = std::make_unique<PatternCache>(other.cache_->byte_limit());
    return *this;
  }

  /// The pattern of a key, computed where the cache has none. Throws as make_indices.
  PatternCache::Pattern dilated_indices(const PatternKey& key) const {
    return cache_->find_or_compute(key, make_indices);
  }
  /// The same; sets `computed` where the pattern was not at hand.
  PatternCache::Pattern dilated_indices(const PatternKey& key, bool& computed) const {
    return detail::find_or_note(*cache_, key, computed);
  }
  /// The same; `make(key)` computes a pattern that is not at hand.
  template <std::invocable<const PatternKey&> Make>
  PatternCache::Pattern dilated_indices(const PatternKey& key, const Make& make) const {
    return cache_->find_or_compute(key, make);
  }
  /// Of the private cache.
  PatternCacheStats stats() const { return cache_->stats(); }

 private:
  std::unique_ptr<PatternCache> cache_;
};

/// Patterns are computed anew at every call.
class use_no_cache {
 public:
  /// Computes the pattern of a key. Throws as make_indices.
  PatternCache::Pattern dilated_indices(const PatternKey& key) const { return make_indices(key); }
  /// The same; sets `computed`.
  PatternCache::Pattern dilated_indices(const PatternKey& key, bool& computed) const {
    computed = true;
    return make_indices(key);
  }
};

/// What a cache policy must offer; safe to call from several threads at once.
template <class P>
concept PatternCachePolicy = std::copy_constructible<P> && requires(const P& policy, const PatternKey& key) {
  { policy.dilated_indices(key) } -> std::convertible_to<PatternCache::Pattern>;
};

namespace detail {

/// What every class asserts, so that all say the same of a type that is none.
template <class P>
consteval bool is_cache_policy() {
  static_assert(
      PatternCachePolicy<P>,
      "CachePolicy must be use_pattern_cache, use_local_cache, use_no_cache or a copyable type with "
      "`dilated_indices(const PatternKey&) const` that returns std::shared_ptr<const DilatedIndices>, "
      "because patterns are looked up only through it");
  return true;
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
