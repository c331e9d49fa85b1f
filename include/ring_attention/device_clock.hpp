// How RingDilatedAttentionProduction counts the time of calls on GPUs, which are still running when they
// return.
#pragma once

#include <atomic>
#include <memory>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Sums the time of an object's calls on GPUs. What it is made of is known where CUDA is.
class DeviceClock {
 public:
  DeviceClock() = default;
  DeviceClock(const DeviceClock&) = delete;
  DeviceClock& operator=(const DeviceClock&) = delete;
  virtual ~DeviceClock() = default;

  /// Of all calls that are complete.
  virtual double seconds() = 0;
};

/// A clock that the first call on a GPU makes. Safe to use from several threads.
class DeviceClockSlot {
 public:
  DeviceClockSlot() = default;
  DeviceClockSlot(const DeviceClockSlot&) = delete;
  DeviceClockSlot& operator=(const DeviceClockSlot&) = delete;
  ~DeviceClockSlot() { delete clock_.load(); }

  /// 0 without a clock.
  double seconds() const {
    DeviceClock* const clock = clock_.load();
    return clock != nullptr ? clock->seconds() : 0;
  }

  template <class Clock>
  Clock& get() {
    DeviceClock* clock = clock_.load();
    if (clock == nullptr) {
      auto mine = std::make_unique<Clock>();
      if (clock_.compare_exchange_strong(clock, mine.get())) return *mine.release();
    }
    return static_cast<Clock&>(*clock);
  }

 private:
  std::atomic<DeviceClock*> clock_{nullptr};
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
