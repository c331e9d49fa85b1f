// The threads that help calls through their loops. There is one pool per process; libraries that are loaded
// with RTLD_LOCAL may have one each.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <ring_attention/threads/fork.hpp>
#include <ring_attention/threads/made_once.hpp>
#include <ring_attention/threads/worker_thread.hpp>
#include <ring_attention/version.hpp>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

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
  /// body. Throws std::logic_error in the child of a body that forked, if other bodies are missing there.
  void run(Loop& loop, int threads) {
    int process = 0;
    {
      const std::lock_guard lock(mutex_);
      process = process_;
      if (workers_ < threads - 1) add_workers(threads - 1);
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
      if (process != process_) {
        if (loop.helpers_active_ > 0) {
          throw std::logic_error("fork() within a parallel loop: the child has part of it");
        }
      } else if (loop.helpers_wanted_ > 0) {
        remove(loop);
      }
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
  void add_workers(int count) {
    try {
      for (; workers_ < count; ++workers_) {
        // Detached, like the pool that is never destroyed: nothing to join when a process ends.
        start_worker([this] { serve(); }).detach();
      }
    } catch (const std::system_error&) {
      // The system grants no further thread: those that exist do the work.
    } catch (const std::bad_alloc&) {
    }
  }

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

  /// In the child of a fork there are no workers, and loops in progress lie on stacks of other threads.
  void begin_again() {
    renew(wanted_);
    renew(finished_);
    first_ = last_ = nullptr;
    workers_ = 0;
    ++process_;
  }

  std::mutex mutex_;
  std::condition_variable wanted_;
  std::condition_variable finished_;
  std::atomic<Loop*> first_ = nullptr;
  Loop* last_ = nullptr;
  int workers_ = 0;
  int process_ = 0;  // how many forks lie behind it
  ForkGuard fork_guard_{mutex_, this, [](void* pool) { static_cast<ThreadPool*>(pool)->begin_again(); }};
};

RING_ATTENTION_EXPORT inline constinit std::atomic<ThreadPool*> thread_pool_slot{nullptr};

inline ThreadPool& thread_pool() { return made_once(thread_pool_slot); }

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
