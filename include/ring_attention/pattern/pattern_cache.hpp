// PatternCache: patterns shared by every attention object of a process, bounded by bytes.
#pragma once

#include <concepts>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <ring_attention/error.hpp>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/threads/fork.hpp>
#include <unordered_map>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// Counters since construction (or reset_stats) and the present contents.
struct PatternCacheStats {
  std::uint64_t hits = 0;        ///< lookups that found an entry
  std::uint64_t misses = 0;      ///< lookups that did not, those that then waited for another thread included
  std::uint64_t insertions = 0;  ///< entries stored
  std::uint64_t evictions = 0;   ///< entries dropped to stay within the byte limit; clear() is not counted
  std::size_t entries = 0;       ///< entries held now
  std::size_t bytes = 0;         ///< bytes of patterns and keys held now
};

/// Thread-safe map from PatternKey to an immutable pattern. Least recently used entries go first when the
/// byte limit is exceeded. A reader keeps its pattern alive after clear() or eviction.
class PatternCache {
 public:
  using Pattern = std::shared_ptr<const DilatedIndices>;  ///< never changes; kept alive by whoever holds it
  using KeyedPattern = std::pair<PatternKey, Pattern>;    ///< an entry

  static constexpr std::size_t default_byte_limit = std::size_t{256} << 20;  ///< 256 MiB

  /// An empty cache that holds at most that many bytes of patterns and keys.
  explicit PatternCache(std::size_t byte_limit = default_byte_limit) : byte_limit_(byte_limit) {}
  PatternCache(const PatternCache&) = delete;
  PatternCache& operator=(const PatternCache&) = delete;

  /// The pattern of a key, or null. Counts a hit or a miss.
  Pattern get_dilated_indices(const PatternKey& key) {
    const std::lock_guard lock(mutex_);
    return find(key);
  }

  /// Stores a pattern and returns the canonical object of its key: the one already there, if any. A pattern
  /// larger than the byte limit is returned and not kept. Throws std::invalid_argument for null.
  Pattern put_dilated_indices(const PatternKey& key, Pattern indices) {
    if (!indices) detail::throw_invalid("indices", "null", "a pattern is needed");
    const std::lock_guard lock(mutex_);
    return insert(key, std::move(indices));
  }

  /// The pattern of a key, made by `make(key)` where it is missing. However many threads miss a key at once,
  /// make runs once, outside the lock; the others wait for its result. Where make throws, its caller gets the
  /// exception and a waiting thread tries next. make may use the cache, but not for the same key.
  template <std::invocable<const PatternKey&> Make>
  Pattern find_or_compute(const PatternKey& key, Make&& make) {
    std::shared_ptr<Pending> mine;
    {
      std::unique_lock lock(mutex_);
      if (Pattern found = find(key)) return found;
      while (!mine) {
        auto fresh = std::make_shared<Pending>();
        const auto [position, first] = pending_.try_emplace(key, fresh);
        if (first) {
          mine = std::move(fresh);
        } else if (position->second->finished) {
          mine = position->second = std::move(fresh);  // a fork left its thread in the parent
        } else {
          const std::shared_ptr<Pending> theirs = position->second;
          finished_.wait(lock, [&theirs] { return theirs->finished; });
          if (theirs->result) return theirs->result;
          if (const auto found = entries_.find(key); found != entries_.end()) return found->second.pattern;
        }
      }
    }
    try {
      Pattern made = std::invoke(std::forward<Make>(make), key);
      if (!made) detail::throw_invalid("make(key)", "null", "a pattern is needed");
      const std::lock_guard lock(mutex_);
      mine->result = insert(key, std::move(made));
      finish(key, *mine);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      finish(key, *mine);
      throw;
    }
    return mine->result;
  }

  /// Drops every entry. Statistics go on.
  void clear() {
    std::unordered_map<PatternKey, Entry, PatternKeyHash> dropped;  // freed after the lock is released
    const std::lock_guard lock(mutex_);
    dropped.swap(entries_);
    recency_.clear();
    bytes_ = 0;
  }

  /// Evicts at once where more is held.
  void set_byte_limit(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    byte_limit_ = bytes;
    evict();
  }

  /// Bytes of patterns and keys that the cache holds at most.
  std::size_t byte_limit() const {
    const std::lock_guard lock(mutex_);
    return byte_limit_;
  }

  /// What the cache holds, most recently used first. Counts no hit and changes no order.
  std::vector<KeyedPattern> entries() const {
    const std::lock_guard lock(mutex_);
    std::vector<KeyedPattern> result;
    result.reserve(entries_.size());
    for (const PatternKey* key : recency_) result.emplace_back(*key, entries_.find(*key)->second.pattern);
    return result;
  }

  /// Counters and present contents.
  PatternCacheStats stats() const {
    const std::lock_guard lock(mutex_);
    PatternCacheStats result = counters_;
    result.entries = entries_.size();
    result.bytes = bytes_;
    return result;
  }

  /// Sets hits, misses, insertions and evictions to zero.
  void reset_stats() {
    const std::lock_guard lock(mutex_);
    counters_ = {};
  }

 private:
  using Recency = std::list<const PatternKey*>;  // keys live in the nodes of entries_, which do not move
  struct Entry {
    Pattern pattern;
    std::size_t bytes = 0;
    Recency::iterator position;
  };
  struct Pending {
    Pattern result;
    bool finished = false;
  };

  // Everything below runs with mutex_ held.

  Pattern find(const PatternKey& key) {
    const auto found = entries_.find(key);
    if (found == entries_.end()) {
      ++counters_.misses;
      return nullptr;
    }
    ++counters_.hits;
    touch(found->second);
    return found->second.pattern;
  }

  void touch(const Entry& entry) { recency_.splice(recency_.begin(), recency_, entry.position); }

  Pattern insert(const PatternKey& key, Pattern pattern) {
    if (const auto found = entries_.find(key); found != entries_.end()) {
      touch(found->second);
      return found->second.pattern;
    }
    const std::size_t bytes =
        pattern->bytes() + sizeof(std::pair<const PatternKey, Entry>) +
        (key.segment_lengths.size() + key.dilation_rates.size() + key.parameters.size()) *
            sizeof(std::int64_t);
    if (bytes > byte_limit_) return pattern;
    recency_.push_front(nullptr);
    try {
      const auto position = entries_.emplace(key, Entry{pattern, bytes, recency_.begin()}).first;
      recency_.front() = &position->first;
    } catch (...) {
      recency_.pop_front();
      throw;
    }
    bytes_ += bytes;
    ++counters_.insertions;
    evict();
    return pattern;
  }

  void evict() {
    while (bytes_ > byte_limit_) {
      const auto oldest = entries_.find(*recency_.back());
      bytes_ -= oldest->second.bytes;
      recency_.pop_back();
      entries_.erase(oldest);
      ++counters_.evictions;
    }
  }

  void finish(const PatternKey& key, Pending& pending) {
    pending.finished = true;
    pending_.erase(key);
    finished_.notify_all();
  }

  /// In the child of a fork nobody waits, and what other threads were making is nobody's.
  void forget_threads() {
    detail::renew(finished_);
    for (auto& [key, pending] : pending_) pending->finished = true;
  }

  mutable std::mutex mutex_;
  std::condition_variable finished_;
  std::unordered_map<PatternKey, Entry, PatternKeyHash> entries_;
  std::unordered_map<PatternKey, std::shared_ptr<Pending>, PatternKeyHash> pending_;
  Recency recency_;
  std::size_t byte_limit_;
  std::size_t bytes_ = 0;
  PatternCacheStats counters_;
  detail::ForkGuard fork_guard_{mutex_, this,
                                [](void* cache) { static_cast<PatternCache*>(cache)->forget_threads(); }};
};

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
