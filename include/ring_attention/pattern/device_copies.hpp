// Copies of a pattern in the memory of GPUs, attached to it.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// The lists of a pattern in the memory of one device, which goes with its last holder.
struct DeviceCopy {
  std::shared_ptr<const void> memory;
  std::size_t bytes = 0;
};

/// At most one copy for each device. Safe to use from several threads, without a lock: patterns are dropped
/// where a cache holds its own. A copy of a pattern begins without any.
class DeviceCopies {
 public:
  DeviceCopies() = default;
  DeviceCopies(const DeviceCopies&) : DeviceCopies() {}
  DeviceCopies& operator=(const DeviceCopies& other) {
    if (this != &other) clear();
    return *this;
  }
  ~DeviceCopies() { clear(); }

  /// The copy of a device, by `make()` if there is none. Of threads that make one at the same time all get
  /// the same.
  template <class Make>
  DeviceCopy find_or_make(int device, const Make& make) {
    const Node* seen = first_.load(std::memory_order_acquire);
    if (const Node* found = find(seen, nullptr, device)) return found->copy;
    auto mine = std::make_unique<Node>(Node{device, make(), seen});
    const Node* const searched = seen;
    while (!first_.compare_exchange_weak(seen, mine.get(), std::memory_order_release,
                                         std::memory_order_acquire)) {
      if (const Node* found = find(seen, searched, device)) return found->copy;
      mine->next = seen;
    }
    return mine.release()->copy;
  }

  /// Bytes on all devices.
  std::size_t bytes() const {
    std::size_t sum = 0;
    for (const Node* node = first_.load(std::memory_order_acquire); node != nullptr; node = node->next) {
      sum += node->copy.bytes;
    }
    return sum;
  }

 private:
  /// Constant once it is in the list.
  struct Node {
    int device;
    DeviceCopy copy;
    const Node* next;
  };

  static const Node* find(const Node* from, const Node* end, int device) {
    while (from != end && from->device != device) from = from->next;
    return from == end ? nullptr : from;
  }

  void clear() {
    for (const Node* node = first_.exchange(nullptr); node != nullptr;) {
      const std::unique_ptr<const Node> dropped(node);
      node = dropped->next;
    }
  }

  std::atomic<const Node*> first_{nullptr};
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
