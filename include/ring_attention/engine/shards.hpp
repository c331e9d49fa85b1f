// Which tokens each member of the ring owns.
#pragma once

#include <algorithm>
#include <cstdint>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// `n` tokens in runs of ceil(n / parts), the last one short. Parts past the end of the sequence are empty
/// and are left out, so that a ring far larger than the sequence costs nothing.
struct SequenceRuns {
  SequenceRuns(std::int64_t n, std::int64_t parts)
      : tokens(n), run_length(std::max<std::int64_t>(1, n / parts + (n % parts != 0))) {}

  /// Number of runs that hold tokens.
  std::int64_t count() const { return (tokens + run_length - 1) / run_length; }
  std::int64_t begin(std::int64_t run) const { return run * run_length; }
  std::int64_t end(std::int64_t run) const { return std::min(tokens, (run + 1) * run_length); }
  std::int64_t of_token(std::int64_t token) const { return token / run_length; }

  std::int64_t tokens;
  std::int64_t run_length;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
