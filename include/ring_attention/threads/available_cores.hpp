// Cores that a process may use.
#pragma once

#include <algorithm>
#include <ring_attention/threads/cpu_quota.hpp>
#include <ring_attention/version.hpp>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

#if defined(__linux__)
/// An affinity mask of as many processors as Linux can be built for; cpu_set_t holds 1024.
class AffinityMask {
 public:
  /// Of the process: of its main thread, whichever thread asks.
  bool read_from_process() {
    return sched_getaffinity(getpid(), sizeof words_, set()) == 0 ||
           sched_getaffinity(0, sizeof words_, set()) == 0;
  }
  bool give_to_this_thread() { return sched_setaffinity(0, sizeof words_, set()) == 0; }
  int count() { return CPU_COUNT_S(sizeof words_, set()); }

 private:
  static constexpr std::size_t most_processors = 8192;

  cpu_set_t* set() { return words_.data(); }

  std::array<cpu_set_t, most_processors / (8 * sizeof(cpu_set_t))> words_{};
};
#endif

/// For a thread that the library made: it would otherwise keep the cores of the thread that made it, which
/// may be pinned to one. Where the system refuses, it does keep them.
inline void use_available_cores() {
#if defined(__linux__)
  if (AffinityMask mask; mask.read_from_process()) mask.give_to_this_thread();
#endif
}

/// Cores in the affinity mask of the process, which containers and job schedulers narrow, and no more than
/// its CPU quota is worth.
inline int available_cores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  if (AffinityMask mask; mask.read_from_process()) cores = mask.count();
  cores = (std::min)(cores, cpu_quota());
#endif
  return (std::max)(1, cores);
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
