// How many threads calls use, and a loop over independent pieces of work.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <ring_attention/error.hpp>
#include <ring_attention/threads/available_cores.hpp>
#include <ring_attention/threads/thread_pool.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// 0: not asked for yet. Not a static variable of a function, whose initialisation another thread may be in
/// when the process forks.
RING_ATTENTION_EXPORT inline constinit std::atomic<int> thread_count{0};

}  // namespace detail

/// How many threads a call may use, the caller's included, from the next call on, in the whole process and in
/// children that fork() makes. 1 runs everything on the caller's thread, except TrueRing's members. If the
/// system grants fewer threads, those that exist do the work. Throws std::invalid_argument if count is not
/// positive.
inline void set_num_threads(int count) {
  detail::require_positive("num_threads", count);
  detail::thread_count = count;
}

/// What set_num_threads said. By default every core that the process may use when this is first needed: those
/// of its affinity mask (the main thread's, whichever thread asks), but no more than its CPU quota (cgroup v1
/// or v2), rounded up.
inline int num_threads() {
  int count = detail::thread_count;
  if (count == 0) {
    const int cores = detail::available_cores();
    // Another thread may have set a number meanwhile; that one counts.
    if (detail::thread_count.compare_exchange_strong(count, cores)) count = cores;
  }
  return count;
}

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
