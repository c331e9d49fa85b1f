// What RingDilatedAttentionProduction is given and gives back beside tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// What a RingDilatedAttentionProduction is made with.
struct ProductionOptions {
  /// All working memory of one call, in bytes, beyond inputs, outputs and its plan. Smaller values mean
  /// smaller chunks, the same result up to rounding, and less speed.
  std::size_t workspace_limit_bytes = (std::numeric_limits<std::size_t>::max)();
  /// Refuse q, k, v and grad_out that hold infinities or NaN.
  bool check_finite = false;
};

/// Sums over all calls of one object.
struct ProductionCounters {
  std::uint64_t forward_calls = 0;    ///< forward calls that returned
  std::uint64_t backward_calls = 0;   ///< backward calls that returned
  std::uint64_t tokens = 0;           ///< batch size x sequence length, forward and backward
  double seconds = 0;                 ///< in forward and backward
  std::uint64_t workspace_bytes = 0;  ///< most working memory that one call needed so far
  std::uint64_t cache_hits = 0;       ///< pattern lookups answered from the cache
  std::uint64_t cache_misses = 0;     ///< pattern lookups that had to compute
};

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
