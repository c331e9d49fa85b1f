// A loop over independent pieces of work.
#pragma once

#include <algorithm>
#include <cstdint>
#include <ring_attention/num_threads.hpp>
#include <ring_attention/threads/thread_pool.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
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
