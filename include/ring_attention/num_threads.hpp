// How many threads calls use.
#pragma once

#include <ring_attention/version.hpp>

#if RING_ATTENTION_DEFINES_ENGINE
#include <atomic>
#include <ring_attention/error.hpp>
#include <ring_attention/threads/available_cores.hpp>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// How many threads a call may use, the caller's included, from the next call on, in the whole process and in
/// children that fork() makes. 1 runs everything on the caller's thread, except TrueRing's members. If the
/// system grants fewer threads, those that exist do the work. Throws std::invalid_argument if count is not
/// positive.
void set_num_threads(int count);

/// What set_num_threads said. By default every core that the process may use when this is first needed: those
/// of its affinity mask (the main thread's, whichever thread asks), but no more than its CPU quota (cgroup v1
/// or v2), rounded up.
int num_threads();

#if RING_ATTENTION_DEFINES_ENGINE
namespace detail {

/// 0: not asked for yet. Not a static variable of a function, whose initialisation another thread may be in
/// when the process forks.
RING_ATTENTION_EXPORT inline constinit std::atomic<int> thread_count{0};

}  // namespace detail

RING_ATTENTION_INLINE void set_num_threads(int count) {
  detail::require_positive("num_threads", count);
  detail::thread_count = count;
}

RING_ATTENTION_INLINE int num_threads() {
  int count = detail::thread_count;
  if (count == 0) {
    const int cores = detail::available_cores();
    // Another thread may have set a number meanwhile; that one counts.
    if (detail::thread_count.compare_exchange_strong(count, cores)) count = cores;
  }
  return count;
}

#endif

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
