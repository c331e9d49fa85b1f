// The time of calls on GPUs, between events.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <mutex>
#include <ring_attention/cuda/device_memory.hpp>
#include <ring_attention/cuda/error.hpp>
#include <ring_attention/device_clock.hpp>
#include <ring_attention/threads/fork.hpp>
#include <ring_attention/version.hpp>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Events at the beginning and the end of calls. Those of complete calls are used again, so that calls which
/// follow one another allocate nothing.
class EventClock final : public DeviceClock {
 public:
  ~EventClock() override {
    for (const auto* calls : {&running_, &idle_}) {
      for (const Call& call : *calls) destroy(call);
    }
  }

  double seconds() override {
    const RelaxedCapture relaxed;
    const std::lock_guard lock(mutex_);
    collect(true);
    return seconds_;
  }

 private:
  friend class EventClockScope;

  struct Call {
    int device = 0;
    cudaEvent_t begin = nullptr, end = nullptr;
  };

  static void destroy(const Call& call) {
    if (call.begin != nullptr) static_cast<void>(cudaEventDestroy(call.begin));
    if (call.end != nullptr) static_cast<void>(cudaEventDestroy(call.end));
  }

  /// Adds up calls that are complete: all of them, or those before the first that is not, which costs the
  /// caller little time. The mutex is held.
  void collect(bool all) {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < running_.size(); ++i) {
      const Call call = running_[i];
      float milliseconds = 0;
      if ((kept > 0 && !all) || cudaEventElapsedTime(&milliseconds, call.begin, call.end) != cudaSuccess) {
        running_[kept++] = call;
        continue;
      }
      seconds_ += 1e-3 * static_cast<double>(milliseconds);
      idle_.push_back(call);
    }
    // What is not ready is no error; if the device failed, calls say so.
    if (kept > 0) static_cast<void>(cudaGetLastError());
    running_.resize(kept);
  }

  Call take(int device) {
    const std::lock_guard lock(mutex_);
    std::size_t found = find_idle(device);
    if (found == idle_.size()) {
      const RelaxedCapture relaxed;
      collect(false);
      found = find_idle(device);
      if (found == idle_.size()) add_calls(device);
    }
    const Call call = idle_[found];
    idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(found));
    return call;
  }

  std::size_t find_idle(int device) const {
    std::size_t i = 0;
    while (i < idle_.size() && idle_[i].device != device) ++i;
    return i;
  }

  /// Several at once: to ask each time whether the last call is complete costs more than to begin.
  void add_calls(int device) {
    constexpr std::size_t batch = 16;
    call_count_ += batch;
    idle_.reserve(call_count_);  // so that giving one back never allocates
    running_.reserve(call_count_);
    for (std::size_t i = 0; i < batch; ++i) {
      Call call{device};
      cudaError_t made = cudaEventCreate(&call.begin);
      if (made == cudaSuccess) made = cudaEventCreate(&call.end);
      if (made != cudaSuccess) destroy(call);
      throw_if_failed(made, "cudaEventCreate");
      idle_.push_back(call);
    }
  }

  void give_back(const Call& call, bool ran) {
    const std::lock_guard lock(mutex_);
    (ran ? running_ : idle_).push_back(call);
  }

  void forget_events() {
    running_.clear();
    idle_.clear();
  }

  std::mutex mutex_;
  std::vector<Call> running_, idle_;
  std::size_t call_count_ = 0;
  double seconds_ = 0;
  // A child of a fork cannot use the parent's devices; its counters can be read.
  ForkGuard fork_guard_{mutex_, this, [](void* clock) { static_cast<EventClock*>(clock)->forget_events(); }};
};

/// Times what a scope queues on a stream of the current device, if it ends by finish().
class EventClockScope {
 public:
  EventClockScope(EventClock& clock, int device, cudaStream_t stream)
      : clock_(clock), stream_(stream), call_(clock.take(device)) {
    const cudaError_t begun = cudaEventRecord(call_.begin, stream_);
    if (begun != cudaSuccess) clock_.give_back(call_, false);  // the destructor will not run
    throw_if_failed(begun, "cudaEventRecord");
  }
  EventClockScope(const EventClockScope&) = delete;
  EventClockScope& operator=(const EventClockScope&) = delete;
  ~EventClockScope() { clock_.give_back(call_, ran_); }

  void finish() {
    throw_if_failed(cudaEventRecord(call_.end, stream_), "cudaEventRecord");
    ran_ = true;
  }

 private:
  EventClock& clock_;
  cudaStream_t stream_;
  EventClock::Call call_;
  bool ran_ = false;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
