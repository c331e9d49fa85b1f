// Objects that a process has one of.
#pragma once

#include <atomic>
#include <memory>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// The object of a slot, made by whoever asks first and never destroyed: objects with static storage may
/// outlive any order of destruction. A static variable of a function would not do, because a thread may be in
/// its initialisation when the process forks; the child would then wait for that thread for ever.
template <class T>
T& made_once(std::atomic<T*>& slot) {
  T* made = slot.load(std::memory_order_acquire);
  if (made != nullptr) return *made;
  auto mine = std::make_unique<T>();
  if (slot.compare_exchange_strong(made, mine.get(), std::memory_order_acq_rel, std::memory_order_acquire)) {
    made = mine.release();
  }
  return *made;
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
