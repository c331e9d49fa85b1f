// Fits a call's working memory into a limit by smaller blocks and shorter runs of keys, then by fewer
// threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/cpu/backward_pass.hpp>
#include <ring_attention/cpu/forward_pass.hpp>
#include <ring_attention/cpu/whole_backward.hpp>
#include <ring_attention/cpu/whole_forward.hpp>
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

/// The largest sizes whose memory stays within the limit, on as many threads as the smallest would allow;
/// bytes(sizes, threads) is what a call would allocate. Throws std::invalid_argument that names the least
/// memory that would do.
template <class Sizes, class Bytes>
Fit<Sizes> fit(const Sizes& sizes, int threads, std::size_t limit, const Bytes& bytes) {
  const Sizes least = smallest(sizes);
  if (bytes(least, 1) > limit) {
    detail::throw_invalid(
        "workspace_limit_bytes", std::to_string(limit),
        "a call of this shape needs at least " + std::to_string(bytes(least, 1)) + " bytes");
  }
  while (bytes(least, threads) > limit) --threads;
  Fit<Sizes> fitted{sizes, threads, bytes(sizes, threads)};
  while (fitted.bytes > limit && shrink(fitted.sizes)) fitted.bytes = bytes(fitted.sizes, threads);
  return fitted;
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
