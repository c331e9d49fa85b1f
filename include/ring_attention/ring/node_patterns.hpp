// Patterns that the processes of one machine compute once.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <ring_attention/pattern/make_indices.hpp>
#include <ring_attention/pattern/pattern_cache.hpp>
#include <ring_attention/pattern/pattern_file.hpp>
#include <ring_attention/ring/shared_memory.hpp>
#include <span>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// The first process that misses a pattern computes it and shares the memory; the others map that. Processes
/// need not ask for the same patterns, nor in the same order: a directory in shared memory says who has what.
/// What is mapped lies as in a file of a PatternStore, and is checked row by row as that is.
class NodePatterns {
  enum State : std::uint32_t { computing, ready, not_shared };
  struct Slot {
    std::atomic<std::uint64_t> hash;  // 0: free
    std::atomic<std::uint32_t> state;
    SharedMemoryName name;
  };
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free &&
                    std::atomic<std::uint32_t>::is_always_lock_free,
                "only atomics without a lock work between processes");

 public:
  /// Patterns beyond that number are computed by every process.
  static constexpr std::size_t max_patterns = 256;
  /// Smaller ones, a page, take longer to map than to compute.
  static constexpr std::size_t smallest_shared = 4096 / sizeof(std::int64_t);
  using Directory = std::array<Slot, max_patterns>;

  /// Without sharing. `patience` is how long a process waits for another to compute a pattern before it
  /// computes all patterns itself: the other may have ended.
  explicit NodePatterns(std::chrono::milliseconds patience = std::chrono::seconds(1)) : patience_(patience) {}

  /// From here on shares: `directory` is zeroed memory of at least sizeof(Directory), the same for all
  /// processes.
  void share(SharedMemory directory) {
    memory_ = std::move(directory);
    slots_ = reinterpret_cast<Slot*>(memory_.bytes().data());
  }

  PatternCache::Pattern find_or_compute(const PatternKey& key) {
    if (slots_ == nullptr || is_small(key)) return make_indices(key);
    const std::uint64_t hash = PatternKeyHash{}(key) | 1;
    for (std::size_t probe = 0; probe < max_patterns; ++probe) {
      Slot& slot = slots_[(hash / 2 + probe) % max_patterns];
      std::uint64_t found = 0;
      if (slot.hash.compare_exchange_strong(found, hash)) return compute(slot, key);
      if (found == hash) return find(slot, key);
    }
    return make_indices(key);
  }

  /// Number of patterns that this process computed for all.
  std::size_t computed() const { return published_.size(); }

 private:
  static bool is_small(const PatternKey& key) {
    if (key.kind != PatternKind::dilated) return false;  // known only when it is computed
    check_dilated_key(key);
    std::int64_t rows = 0;
    for (std::size_t i = 0; i < key.segment_lengths.size(); ++i) rows += count_branch_rows(key, i);
    return rows < static_cast<std::int64_t>(smallest_shared);
  }

  PatternCache::Pattern compute(Slot& slot, const PatternKey& key) {
    State outcome = not_shared;
    PatternCache::Pattern pattern;
    try {
      pattern = make_indices(key);
      pattern = publish(slot, key, *pattern);
      outcome = ready;
    } catch (const std::system_error&) {
      // Memory that cannot be shared: a process that needs the pattern computes it.
    } catch (...) {
      slot.state.store(not_shared, std::memory_order_release);
      throw;
    }
    slot.state.store(outcome, std::memory_order_release);
    return pattern;
  }

  /// Moves a pattern to shared memory: one copy for all processes, this one, too.
  PatternCache::Pattern publish(Slot& slot, const PatternKey& key, const DilatedIndices& pattern) {
    const std::array<std::span<const std::int64_t>, 5> lists{
        key.segment_lengths, key.dilation_rates, key.parameters, pattern.branch_begins(), pattern.all_rows()};
    std::vector<std::int64_t> head{key.sequence_length, key.offset, static_cast<std::int64_t>(key.kind)};
    std::size_t words = head.size() + lists.size();
    for (const auto list : lists) {
      head.push_back(static_cast<std::int64_t>(list.size()));
      words += list.size();
    }
    SharedMemory memory = SharedMemory::create(words * sizeof(std::int64_t));
    slot.name = memory.name();
    auto* const begin = reinterpret_cast<std::int64_t*>(memory.bytes().data());
    std::int64_t* next = std::copy(head.begin(), head.end(), begin);
    for (const auto list : lists) next = std::copy(list.begin(), list.end(), next);
    published_.push_back(std::move(memory));
    // A mapping of its own, which lasts as long as the pattern does.
    const auto mapped = std::make_shared<const SharedMemory>(SharedMemory::attach(slot.name));
    const std::span all(reinterpret_cast<const std::int64_t*>(mapped->bytes().data()), words);
    const std::size_t rows = lists[4].size(), begins = lists[3].size();
    return std::make_shared<const DilatedIndices>(all.subspan(words - rows - begins, begins), all.last(rows),
                                                  mapped, true);
  }

  PatternCache::Pattern find(Slot& slot, const PatternKey& key) {
    const auto deadline = std::chrono::steady_clock::now() + patience_;
    while (slot.state.load(std::memory_order_acquire) == computing) {
      if (std::chrono::steady_clock::now() > deadline) {
        slots_ = nullptr;
        return make_indices(key);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    if (slot.state.load(std::memory_order_acquire) == ready) {
      if (auto mapped = attach(slot.name, key)) return mapped;
    }
    return make_indices(key);
  }

  /// Null where the memory is gone, or holds another pattern of the same hash.
  static PatternCache::Pattern attach(const SharedMemoryName& name, const PatternKey& key) {
    try {
      const auto memory = std::make_shared<const SharedMemory>(SharedMemory::attach(name));
      const std::span<const std::byte> bytes = memory->bytes();
      const FileContents contents{
          {reinterpret_cast<const std::int64_t*>(bytes.data()), bytes.size() / sizeof(std::int64_t)},
          memory,
          true};
      WordReader reader(contents.words);
      auto [found, pattern] = read_pattern(reader, contents);
      if (found == key) return pattern;
    } catch (const std::system_error&) {
    } catch (const FileRefused&) {
    }
    return nullptr;
  }

  std::chrono::milliseconds patience_;
  SharedMemory memory_;
  Slot* slots_ = nullptr;
  std::vector<SharedMemory> published_;  // while this object lives, others can map them
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
