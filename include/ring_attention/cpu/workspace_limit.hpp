// Fits a call's working memory into a limit, or into what can be had, by smaller blocks and shorter runs of
// keys, then by fewer threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <ring_attention/aligned_block.hpp>
#include <ring_attention/cpu/forward_tasks.hpp>
#include <ring_attention/cpu/gradient_tiles.hpp>
#include <ring_attention/cpu/workspace.hpp>
#include <ring_attention/error.hpp>
#include <ring_attention/workspace.hpp>
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
  std::int64_t& inner = sizes.group_entries >= sizes.run_keys ? sizes.group_entries : sizes.run_keys;
  std::int64_t& largest = sizes.sum_rows >= inner ? sizes.sum_rows : inner;
  if (largest <= 1) return false;
  largest /= 2;
  return true;
}

template <class Sizes>
Sizes smallest(Sizes sizes) {
  while (shrink(sizes)) {
  }
  return sizes;
}

/// The largest sizes whose memory stays within the limit, on as many threads as the smallest would allow, and
/// that memory. Where it runs out, sizes of half as much. lay_out(carver, sizes, threads) carves what a call
/// needs. Throws std::invalid_argument for a limit below the least that would do, which it names, and
/// OutOfWorkspace if not even that can be had.
template <class Sizes, class LayOut>
Fit<Sizes> fit_into(detail::Block& memory, const Sizes& fast, int threads, std::size_t limit,
                    const LayOut& lay_out) {
  const auto bytes = [&lay_out](const Sizes& sizes, int sharing) {
    detail::Carver count;
    lay_out(count, sizes, sharing);
    return count.used();
  };
  for (Fit<Sizes> fitted{fast, threads, bytes(fast, threads)};;) {
    if (fitted.bytes <= limit) {
      try {
        memory.reserve(fitted.bytes);
        return fitted;
      } catch (const std::bad_alloc&) {
        const std::size_t least = bytes(smallest(fast), 1);
        if (fitted.bytes <= least) throw OutOfWorkspace(least);
        limit = (std::max)(least, fitted.bytes / 2);
      }
    }
    const Sizes least = smallest(fast);
    if (bytes(least, 1) > limit) {
      detail::throw_invalid(
          "workspace_limit_bytes", std::to_string(limit),
          "a call of this shape needs at least " + std::to_string(bytes(least, 1)) + " bytes");
    }
    while (bytes(least, fitted.threads) > limit) --fitted.threads;
    fitted = {fast, fitted.threads, bytes(fast, fitted.threads)};
    while (fitted.bytes > limit && shrink(fitted.sizes)) fitted.bytes = bytes(fitted.sizes, fitted.threads);
  }
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
