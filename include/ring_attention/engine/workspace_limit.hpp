// Fits a call's working memory into a limit by smaller blocks and shorter runs of keys, then by fewer
// threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/engine/backward.hpp>
#include <ring_attention/engine/forward.hpp>
#include <ring_attention/engine/whole.hpp>
#include <ring_attention/engine/whole_backward.hpp>
#include <ring_attention/error.hpp>
#include <string>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Sizes of a call, how many threads share the work, and the memory that all of them need.
template <class Sizes>
struct Fit {
  Sizes sizes;
  int threads = 1;
  std::size_t bytes = 0;
};

/// Halves what is largest first; false where nothing is left to halve.
inline bool shrink(ForwardSizes& sizes) {
  constexpr std::int64_t useful_rows = 256;  // below this, packing keys is no longer shared by many queries
  if (sizes.rows_per_task > useful_rows || (sizes.rows_per_task > 1 && sizes.run_keys == 1)) {
    sizes.rows_per_task = std::max<std::int64_t>(1, sizes.rows_per_task / 2);
  } else if (sizes.heads_per_task > 1) {
    sizes.heads_per_task = std::max<std::int64_t>(1, sizes.heads_per_task / 2);
  } else if (sizes.run_keys > 1) {
    sizes.run_keys /= 2;
  } else {
    return false;
  }
  return true;
}

inline bool shrink(BackwardSizes& sizes) {
  if (sizes.group_entries > 1 && sizes.group_entries >= sizes.run_keys) {
    sizes.group_entries /= 2;
  } else if (sizes.run_keys > 1) {
    sizes.run_keys /= 2;
  } else {
    return false;
  }
  return true;
}

/// Memory of the smallest sizes on one thread.
template <class Sizes, class BytesPerThread>
std::size_t least_bytes(Sizes sizes, const BytesPerThread& bytes_per_thread) {
  while (shrink(sizes)) {
  }
  return bytes_per_thread(sizes);
}

/// The largest sizes whose memory stays within the limit. Throws std::invalid_argument that names the least
/// memory that would do.
template <class Sizes, class BytesPerThread>
Fit<Sizes> fit(Sizes sizes, int threads, std::size_t limit, const BytesPerThread& bytes_per_thread) {
  Fit<Sizes> fitted{sizes, threads, 0};
  const std::size_t least = least_bytes(sizes, bytes_per_thread);
  if (least > limit) {
    detail::throw_invalid("workspace_limit_bytes", std::to_string(limit),
                          "a call of this shape needs at least " + std::to_string(least) + " bytes");
  }
  fitted.threads = static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(threads), limit / least));
  while (bytes_per_thread(fitted.sizes) > limit / static_cast<std::size_t>(fitted.threads)) {
    if (!shrink(fitted.sizes)) break;
  }
  fitted.bytes = bytes_per_thread(fitted.sizes) * static_cast<std::size_t>(fitted.threads);
  return fitted;
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
