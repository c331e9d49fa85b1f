// A warp's lanes as 32 contexts of one thread, which run in turns.
#pragma once

#include <cuda_runtime_api.h>
#include <ucontext.h>

#include <array>
#include <cstddef>
#include <stdexcept>
#include <vector>

namespace test {

class EmulatedWarp {
 public:
  EmulatedWarp() {
    for (Lane& lane : lanes_) lane.stack.resize(std::size_t{1} << 16);
  }

  /// Runs `kernel()` as every lane of a warp. Throws if lanes come to exchange data while others have ended.
  template <class Kernel>
  void run(unsigned block, unsigned warp, const Kernel& kernel) {
    body_ = [](const void* object) { (*static_cast<const Kernel*>(object))(); };
    kernel_ = &kernel;
    running_ = this;
    blockIdx.x = block;
    for (Lane& lane : lanes_) {
      getcontext(&lane.context);
      lane.context.uc_stack.ss_sp = lane.stack.data();
      lane.context.uc_stack.ss_size = lane.stack.size();
      lane.context.uc_link = &main_;
      lane.ended = false;
      makecontext(&lane.context, &EmulatedWarp::run_lane, 0);
    }
    for (std::size_t ended = 0; ended < lanes_.size();) {
      if (ended != 0) throw std::logic_error("lanes of a warp diverge");
      for (std::size_t i = 0; i < lanes_.size(); ++i) {
        threadIdx.x = warp * 32 + static_cast<unsigned>(i);
        swapcontext(&main_, &lanes_[i].context);
        if (lanes_[i].ended) ++ended;
      }
    }
  }

  static void wait() {
    EmulatedWarp& warp = *running_;
    swapcontext(&warp.lanes_[threadIdx.x % 32].context, &warp.main_);
  }

 private:
  struct Lane {
    ucontext_t context;
    std::vector<char> stack;
    bool ended = false;
  };

  static void run_lane() {
    running_->body_(running_->kernel_);
    running_->lanes_[threadIdx.x % 32].ended = true;
  }

  static inline EmulatedWarp* running_ = nullptr;
  std::array<Lane, 32> lanes_;
  ucontext_t main_;
  void (*body_)(const void*) = nullptr;
  const void* kernel_ = nullptr;
};

inline void wait_for_lanes() { EmulatedWarp::wait(); }

}  // namespace test
