// Threads of a block of a GPU as contexts of one thread, which run in turns.
#pragma once

#include <cuda_runtime_api.h>
#include <ucontext.h>

#include <cstddef>
#include <stdexcept>
#include <vector>

namespace test {

class EmulatedThreads {
 public:
  /// Runs `count` threads at once, whole warps.
  explicit EmulatedThreads(unsigned count) : threads_(count), warps_(count / 32) {
    for (Thread& thread : threads_) thread.stack.resize(std::size_t{1} << 16);
  }

  /// Runs `kernel()` as thread `first_thread` and those that follow of a block. Throws if some come to wait
  /// for others that have ended.
  template <class Kernel>
  void run(unsigned block, unsigned first_thread, const Kernel& kernel) {
    body_ = [](const void* object) { (*static_cast<const Kernel*>(object))(); };
    kernel_ = &kernel;
    running_ = this;
    first_ = first_thread;
    blockIdx.x = block;
    for (Thread& thread : threads_) {
      getcontext(&thread.context);
      thread.context.uc_stack.ss_sp = thread.stack.data();
      thread.context.uc_stack.ss_size = thread.stack.size();
      thread.context.uc_link = &main_;
      thread.ended = false;
      makecontext(&thread.context, &EmulatedThreads::run_thread, 0);
    }
    block_ = {};
    for (Barrier& warp : warps_) warp = {};
    for (std::size_t ended = 0; ended < threads_.size();) {
      progress_ = false;
      for (std::size_t i = 0; i < threads_.size(); ++i) {
        if (threads_[i].ended) continue;
        threadIdx.x = first_ + static_cast<unsigned>(i);
        swapcontext(&main_, &threads_[i].context);
        if (threads_[i].ended) ++ended;
      }
      if (!progress_) throw std::logic_error("threads wait for others that have ended");
    }
  }

  static void wait_for_warp() { running_->wait(running_->warps_[running_->number() / 32], 32); }
  static void wait_for_block() { running_->wait(running_->block_, running_->threads_.size()); }

 private:
  struct Thread {
    ucontext_t context;
    std::vector<char> stack;
    bool ended = false;
  };
  struct Barrier {
    std::size_t arrived = 0, passed = 0;
  };

  std::size_t number() const { return threadIdx.x - first_; }

  void wait(Barrier& barrier, std::size_t count) {
    const std::size_t passed = barrier.passed;
    if (++barrier.arrived == count) {
      barrier.arrived = 0;
      ++barrier.passed;
    }
    while (barrier.passed == passed) swapcontext(&threads_[number()].context, &main_);
    progress_ = true;
  }

  static void run_thread() {
    running_->progress_ = true;
    running_->body_(running_->kernel_);
    running_->progress_ = true;
    running_->threads_[running_->number()].ended = true;
  }

  static inline EmulatedThreads* running_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<Barrier> warps_;
  Barrier block_;
  bool progress_ = false;
  unsigned first_ = 0;
  ucontext_t main_;
  void (*body_)(const void*) = nullptr;
  const void* kernel_ = nullptr;
};

inline void wait_for_warp() { EmulatedThreads::wait_for_warp(); }
inline void wait_for_block() { EmulatedThreads::wait_for_block(); }

}  // namespace test
