// Threads: a pool, and a loop over independent pieces of work. There is one pool per process; libraries that
// are loaded with RTLD_LOCAL may have one each.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#include <ring_attention/error.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Cores in the affinity mask of the process, which containers and job schedulers narrow.
inline int available_cores() {
#if defined(__linux__)
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) return (std::max)(1, CPU_COUNT(&mask));
#endif
  return (std::max)(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// Looks out for a condition for a while, as one does before going to sleep: waking up takes longer than most
/// waits between loops. Other threads may have the core meanwhile.
template <class Condition>
void look_out_for(const Condition& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
  while (!condition() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
}

/// Workers that help callers through their loops. A caller always works on its own loop, so that a loop ends
/// even when every worker is busy elsewhere, and loops may be nested or started from many threads at once.
class ThreadPool {
 public:
  /// A loop in progress. Lives on its caller's stack; listed in the pool while it wants helpers.
  class Loop {
   public:
    using Body = void (*)(const void* context, std::int64_t index, int worker);

    Loop(std::int64_t count, Body body, const void* context)
        : count_(count), body_(body), context_(context) {}

   private:
    friend class ThreadPool;

    void work(int worker) noexcept {
      try {
        for (std::int64_t i = next_++; i < count_; i = next_++) body_(context_, i, worker);
      } catch (...) {
        next_ = count_;
        const std::lock_guard lock(error_mutex_);
        if (!error_) error_ = std::current_exception();
      }
    }

    const std::int64_t count_;
    const Body body_;
    const void* const context_;
    std::atomic<std::int64_t> next_{0};
    std::mutex error_mutex_;
    std::exception_ptr error_;
    // What follows is written under the pool's mutex; those that look out read it without.
    int helpers_wanted_ = 0;
    int helpers_joined_ = 0;
    std::atomic<int> helpers_active_{0};
    Loop* previous_ = nullptr;
    Loop* following_ = nullptr;
  };

  /// Runs the loop on the calling thread and up to `threads - 1` workers; rethrows the first exception of a
  /// body.
  void run(Loop& loop, int threads) {
    {
      const std::lock_guard lock(mutex_);
      try {
        for (; workers_ < threads - 1; ++workers_) {
          // Detached, like the pool that is never destroyed: nothing to join when a process ends or forks.
          std::thread([this] { serve(); }).detach();
        }
      } catch (const std::system_error&) {
        // The system grants no further thread: those that exist do the work.
      }
      loop.helpers_wanted_ = threads - 1;
      append(loop);
    }
    if (threads == 2) {
      wanted_.notify_one();
    } else {
      wanted_.notify_all();
    }
    loop.work(0);
    {
      std::unique_lock lock(mutex_);
      if (loop.helpers_wanted_ > 0) remove(loop);
      if (loop.helpers_active_ > 0) {
        lock.unlock();
        look_out_for([&loop] { return loop.helpers_active_ == 0; });
        lock.lock();
        finished_.wait(lock, [&loop] { return loop.helpers_active_ == 0; });
      }
    }
    if (loop.error_) std::rethrow_exception(loop.error_);
  }

 private:
  [[noreturn]] void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wanted_.wait(lock, [this] { return first_ != nullptr; });
      Loop& loop = *first_.load();
      const int worker = ++loop.helpers_joined_;
      ++loop.helpers_active_;
      if (--loop.helpers_wanted_ == 0) remove(loop);
      lock.unlock();
      loop.work(worker);
      lock.lock();
      if (--loop.helpers_active_ == 0) finished_.notify_all();
      if (first_ == nullptr) {
        lock.unlock();
        look_out_for([this] { return first_ != nullptr; });
        lock.lock();
      }
    }
  }

  void append(Loop& loop) {
    loop.previous_ = last_;
    if (last_ != nullptr) {
      last_->following_ = &loop;
    } else {
      first_ = &loop;
    }
    last_ = &loop;
  }

  void remove(Loop& loop) {
    loop.helpers_wanted_ = 0;
    if (loop.previous_ != nullptr) {
      loop.previous_->following_ = loop.following_;
    } else {
      first_ = loop.following_;
    }
    (loop.following_ != nullptr ? loop.following_->previous_ : last_) = loop.previous_;
  }

  std::mutex mutex_;
  std::condition_variable wanted_;
  std::condition_variable finished_;
  std::atomic<Loop*> first_ = nullptr;
  Loop* last_ = nullptr;
  int workers_ = 0;
};

RING_ATTENTION_EXPORT inline ThreadPool& thread_pool() {
  static ThreadPool& pool = *new ThreadPool;
  return pool;
}

RING_ATTENTION_EXPORT inline std::atomic<int>& thread_count() {
  static std::atomic<int> count = available_cores();
  return count;
}

}  // namespace detail

/// How many threads a call may use, the caller's included, from the next call on. 1 runs everything on the
/// caller's thread. Throws std::invalid_argument where count is not positive.
inline void set_num_threads(int count) {
  detail::require_positive("num_threads", count);
  detail::thread_count() = count;
}

/// By default every core of the process's affinity mask.
inline int num_threads() { return detail::thread_count(); }

namespace detail {

/// Runs body(index, worker) for every index in [0, count), handed out one at a time in ascending order.
/// `worker` is below `threads` and no two bodies run at once with the same one.
template <class Body>
void parallel_for(std::int64_t count, int threads, const Body& body) {
  if (threads <= 1 || count <= 1) {
    for (std::int64_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  const auto call = [](const void* context, std::int64_t index, int worker) {
    (*static_cast<const Body*>(context))(index, worker);
  };
  ThreadPool::Loop loop(count, call, &body);
  thread_pool().run(loop, static_cast<int>(std::min<std::int64_t>(threads, count)));
}

template <class Body>
void parallel_for(std::int64_t count, const Body& body) {
  parallel_for(count, num_threads(), body);
}

/// One thread alone is slow to touch new memory.
template <class T>
void fill_zeros(T* data, std::int64_t count, int threads) {
  constexpr std::int64_t chunk = std::int64_t{1} << 14;
  parallel_for((count + chunk - 1) / chunk, threads, [&](std::int64_t index, int) {
    std::fill_n(data + index * chunk, (std::min)(chunk, count - index * chunk), T{});
  });
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
