// Patterns that the processes of one machine compute once.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
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
/// What is mapped is checked as a file of a PatternStore is.
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
  /// How long a process waits for another to compute a pattern before it does so itself.
  static constexpr std::chrono::seconds patience{5};

  using Directory = std::array<Slot, max_patterns>;

  /// Without sharing.
  NodePatterns() = default;
  /// `directory` is zeroed memory of at least sizeof(Directory), the same for all processes.
  explicit NodePatterns(SharedMemory directory)
      : memory_(std::move(directory)), slots_(reinterpret_cast<Slot*>(memory_.bytes().data())) {}

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
  struct MemoryOutput {
    std::vector<std::byte> bytes;
    void write(std::span<const std::byte> more) { bytes.insert(bytes.end(), more.begin(), more.end()); }
    void overwrite_start(std::span<const std::byte> start) {
      std::copy(start.begin(), start.end(), bytes.begin());
    }
  };

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
      MemoryOutput output;
      PatternWriter writer(output);
      writer.write(key, *pattern);
      writer.finish();
      SharedMemory memory = SharedMemory::create(output.bytes.size());
      std::copy(output.bytes.begin(), output.bytes.end(), memory.bytes().begin());
      slot.name = memory.name();
      published_.push_back(std::move(memory));
      if (auto mapped = attach(slot.name, key))
        pattern = std::move(mapped);  // one copy for all, this one, too
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

  PatternCache::Pattern find(Slot& slot, const PatternKey& key) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (slot.state.load(std::memory_order_acquire) == computing) {
      if (std::chrono::steady_clock::now() > deadline) return make_indices(key);
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
      for (auto& [found, pattern] : read_patterns(check_header(bytes, bytes.size()), contents)) {
        if (found == key) return pattern;
      }
    } catch (const std::system_error&) {
    } catch (const FileRefused&) {
    }
    return nullptr;
  }

  SharedMemory memory_;
  Slot* slots_ = nullptr;
  std::vector<SharedMemory> published_;  // while this object lives, others can map them
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
