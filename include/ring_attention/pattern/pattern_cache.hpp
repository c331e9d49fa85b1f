// PatternCache: patterns shared by every attention object of a process, bounded by bytes.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/version.hpp>
#include <utility>
#include <vector>

#if RING_ATTENTION_DEFINES_ENGINE
#include <condition_variable>
#include <list>
#include <mutex>
#include <ring_attention/error.hpp>
#include <ring_attention/threads/fork.hpp>
#include <unordered_map>
#endif

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
  std::size_t device_bytes =
      0;  ///< bytes that GPUs hold of these patterns; the byte limit does not count them
};

namespace detail {

/// Refers to a callable that gives the pattern of a key, which must live as long.
class PatternFunction {
 public:
  template <class Function>
  PatternFunction(const Function& function)  // NOLINT(google-explicit-constructor)
      : object_(&function),
        call_([](const void* object, const PatternKey& key) -> std::shared_ptr<const DilatedIndices> {
          return (*static_cast<const Function*>(object))(key);
        }) {}

  std::shared_ptr<const DilatedIndices> operator()(const PatternKey& key) const {
    return call_(object_, key);
  }

 private:
  const void* object_;
  std::shared_ptr<const DilatedIndices> (*call_)(const void*, const PatternKey&);
};

}  // namespace detail

/// Thread-safe map from PatternKey to an immutable pattern. Least recently used entries go first when the
/// byte limit is exceeded. A reader keeps its pattern alive after clear() or eviction.
class PatternCache {
 public:
  using Pattern = std::shared_ptr<const DilatedIndices>;  ///< never changes; kept alive by whoever holds it
  using KeyedPattern = std::pair<PatternKey, Pattern>;    ///< an entry

  static constexpr std::size_t default_byte_limit = std::size_t{256} << 20;  ///< 256 MiB

  /// An empty cache that holds at most that many bytes of patterns and keys.
  explicit PatternCache(std::size_t byte_limit = default_byte_limit);
  ~PatternCache();
  PatternCache(const PatternCache&) = delete;
  PatternCache& operator=(const PatternCache&) = delete;

  /// The pattern of a key, or null. Counts a hit or a miss.
  Pattern get_dilated_indices(const PatternKey& key);

  /// Stores a pattern and returns the canonical object of its key: the one already there, if any. A pattern
  /// larger than the byte limit is returned and not kept. Throws std::invalid_argument for null.
  Pattern put_dilated_indices(const PatternKey& key, Pattern indices);

  /// The pattern of a key, made by `make(key)` where it is missing. However many threads miss a key at once,
  /// make runs once, outside the lock; the others wait for its result. Where make throws, its caller gets the
  /// exception and a waiting thread tries next. make may use the cache, but not for the same key.
  template <std::invocable<const PatternKey&> Make>
  Pattern find_or_compute(const PatternKey& key, Make&& make) {
    const auto call = [&make](const PatternKey& missing) -> Pattern {
      return std::invoke(std::forward<Make>(make), missing);
    };
    return find_or_make(key, call);
  }

  /// Drops every entry. Statistics go on.
  void clear();

  /// Evicts at once where more is held.
  void set_byte_limit(std::size_t bytes);

  /// Bytes of patterns and keys that the cache holds at most.
  std::size_t byte_limit() const;

  /// What the cache holds, most recently used first. Counts no hit and changes no order.
  std::vector<KeyedPattern> entries() const;

  /// Counters and present contents.
  PatternCacheStats stats() const;

  /// Sets hits, misses, insertions and evictions to zero.
  void reset_stats();

 private:
  struct Contents;

  Pattern find_or_make(const PatternKey& key, const detail::PatternFunction& make);

  const std::unique_ptr<Contents> contents_;
};

#if RING_ATTENTION_DEFINES_ENGINE

/// Apart from the cache, which may lie on a stack: see ForkGuard. Functions run with the mutex held.
struct PatternCache::Contents {
  struct Held {
    const PatternKey* key;  // lives in the node of its entry, which does not move
    Pattern pattern;
  };
  using Recency = std::list<Held>;
  struct Entry {
    std::size_t bytes = 0;
    Recency::iterator position;
  };
  struct Pending {
    Pattern result;
    bool finished = false;
  };

  explicit Contents(std::size_t limit) : byte_limit(limit) {}

  Pattern find(const PatternKey& key) {
    const auto found = entries.find(key);
    if (found == entries.end()) {
      ++counters.misses;
      return nullptr;
    }
    ++counters.hits;
    touch(found->second);
    return found->second.position->pattern;
  }

  void touch(const Entry& entry) { recency.splice(recency.begin(), recency, entry.position); }

  /// `dropped` takes patterns that give way, which the caller frees after the lock is released: to free
  /// what GPUs hold of them takes its time.
  Pattern insert(const PatternKey& key, Pattern pattern, Recency& dropped) {
    if (const auto found = entries.find(key); found != entries.end()) {
      touch(found->second);
      return found->second.position->pattern;
    }
    const std::size_t size =
        pattern->bytes() + sizeof(std::pair<const PatternKey, Entry>) +
        (key.segment_lengths.size() + key.dilation_rates.size() + key.parameters.size()) *
            sizeof(std::int64_t);
    if (size > byte_limit) return pattern;
    recency.push_front({nullptr, pattern});
    try {
      const auto position = entries.emplace(key, Entry{size, recency.begin()}).first;
      recency.front().key = &position->first;
    } catch (...) {
      recency.pop_front();
      throw;
    }
    bytes += size;
    ++counters.insertions;
    evict(dropped);
    return pattern;
  }

  void evict(Recency& dropped) {
    while (bytes > byte_limit) {
      const auto oldest = entries.find(*recency.back().key);
      bytes -= oldest->second.bytes;
      dropped.splice(dropped.begin(), recency, oldest->second.position);
      entries.erase(oldest);
      ++counters.evictions;
    }
  }

  void finish(const PatternKey& key, Pending& mine) {
    mine.finished = true;
    pending.erase(key);
    finished.notify_all();
  }

  /// In the child of a fork nobody waits, and what other threads were making is nobody's.
  void forget_threads() {
    detail::renew(finished);
    for (auto& [key, made_elsewhere] : pending) made_elsewhere->finished = true;
  }

  std::mutex mutex;
  std::condition_variable finished;
  std::unordered_map<PatternKey, Entry, PatternKeyHash> entries;
  std::unordered_map<PatternKey, std::shared_ptr<Pending>, PatternKeyHash> pending;
  Recency recency;
  std::size_t byte_limit;
  std::size_t bytes = 0;
  PatternCacheStats counters;
  detail::ForkGuard fork_guard{mutex, this,
                               [](void* cache) { static_cast<Contents*>(cache)->forget_threads(); }};
};

RING_ATTENTION_INLINE PatternCache::PatternCache(std::size_t byte_limit)
    : contents_(std::make_unique<Contents>(byte_limit)) {}
RING_ATTENTION_INLINE PatternCache::~PatternCache() = default;

RING_ATTENTION_INLINE PatternCache::Pattern PatternCache::get_dilated_indices(const PatternKey& key) {
  const std::lock_guard lock(contents_->mutex);
  return contents_->find(key);
}

RING_ATTENTION_INLINE PatternCache::Pattern PatternCache::put_dilated_indices(const PatternKey& key,
                                                                              Pattern indices) {
  if (!indices) detail::throw_invalid("indices", "null", "a pattern is needed");
  Contents::Recency dropped;
  const std::lock_guard lock(contents_->mutex);
  return contents_->insert(key, std::move(indices), dropped);
}

RING_ATTENTION_INLINE PatternCache::Pattern PatternCache::find_or_make(const PatternKey& key,
                                                                       const detail::PatternFunction& make) {
  std::shared_ptr<Contents::Pending> mine;
  {
    std::unique_lock lock(contents_->mutex);
    if (Pattern found = contents_->find(key)) return found;
    while (!mine) {
      auto fresh = std::make_shared<Contents::Pending>();
      const auto [position, first] = contents_->pending.try_emplace(key, fresh);
      if (first) {
        mine = std::move(fresh);
      } else if (position->second->finished) {
        mine = position->second = std::move(fresh);  // a fork left its thread in the parent
      } else {
        const std::shared_ptr<Contents::Pending> theirs = position->second;
        contents_->finished.wait(lock, [&theirs] { return theirs->finished; });
        if (theirs->result) return theirs->result;
        if (const auto found = contents_->entries.find(key); found != contents_->entries.end())
          return found->second.position->pattern;
      }
    }
  }
  try {
    Pattern made = make(key);
    if (!made) detail::throw_invalid("make(key)", "null", "a pattern is needed");
    Contents::Recency dropped;
    const std::lock_guard lock(contents_->mutex);
    mine->result = contents_->insert(key, std::move(made), dropped);
    contents_->finish(key, *mine);
  } catch (...) {
    const std::lock_guard lock(contents_->mutex);
    contents_->finish(key, *mine);
    throw;
  }
  return mine->result;
}

RING_ATTENTION_INLINE void PatternCache::clear() {
  // Freed after the lock is released.
  std::unordered_map<PatternKey, Contents::Entry, PatternKeyHash> keys;
  Contents::Recency dropped;
  const std::lock_guard lock(contents_->mutex);
  keys.swap(contents_->entries);
  dropped.swap(contents_->recency);
  contents_->bytes = 0;
}

RING_ATTENTION_INLINE void PatternCache::set_byte_limit(std::size_t bytes) {
  Contents::Recency dropped;
  const std::lock_guard lock(contents_->mutex);
  contents_->byte_limit = bytes;
  contents_->evict(dropped);
}

RING_ATTENTION_INLINE std::size_t PatternCache::byte_limit() const {
  const std::lock_guard lock(contents_->mutex);
  return contents_->byte_limit;
}

RING_ATTENTION_INLINE std::vector<PatternCache::KeyedPattern> PatternCache::entries() const {
  const std::lock_guard lock(contents_->mutex);
  std::vector<KeyedPattern> result;
  result.reserve(contents_->entries.size());
  for (const Contents::Held& held : contents_->recency) result.emplace_back(*held.key, held.pattern);
  return result;
}

RING_ATTENTION_INLINE PatternCacheStats PatternCache::stats() const {
  const std::lock_guard lock(contents_->mutex);
  PatternCacheStats result = contents_->counters;
  result.entries = contents_->entries.size();
  result.bytes = contents_->bytes;
  for (const Contents::Held& held : contents_->recency) {
    result.device_bytes += held.pattern->device_copies().bytes();
  }
  return result;
}

RING_ATTENTION_INLINE void PatternCache::reset_stats() {
  const std::lock_guard lock(contents_->mutex);
  contents_->counters = {};
}

#endif

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
