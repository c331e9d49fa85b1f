// Which tokens each member of the ring owns, and where they lie in its tensors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <ring_attention/config.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Tokens [begin, end).
struct TokenRun {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
};

/// `n` tokens in runs of ceil(n / parts), the last one short. Runs past the end of the sequence are empty.
struct SequenceRuns {
  SequenceRuns(std::int64_t n, std::int64_t parts)
      : tokens(n), run_length(std::max<std::int64_t>(1, n / parts + (n % parts != 0))) {}

  /// Number of runs that hold tokens; a ring far larger than the sequence costs nothing.
  std::int64_t count() const { return tokens / run_length + (tokens % run_length != 0); }
  std::int64_t begin(std::int64_t run) const { return run < count() ? run * run_length : tokens; }
  std::int64_t end(std::int64_t run) const {
    return run < count() ? run * run_length + (std::min)(run_length, tokens - run * run_length) : tokens;
  }
  std::int64_t of_token(std::int64_t token) const { return token / run_length; }

  std::int64_t tokens;
  std::int64_t run_length;
};

/// Which row of a tensor holds a token. By default that of its number, as in whole tensors.
struct TokenRows {
  std::int64_t second = 0;        ///< where the second of two runs begins
  std::int64_t first_shift = 0;   ///< from a token before it to its row
  std::int64_t second_shift = 0;  ///< from there on

  std::int64_t operator()(std::int64_t token) const {
    return token + (token < second ? first_shift : second_shift);
  }
};

/// Rows of a tensor whose first holds token `begin`.
inline TokenRows rows_from(std::int64_t begin) { return {begin, -begin, -begin}; }

/// The runs of one ring member, ascending; either may be empty.
struct MemberTokens {
  TokenRun runs[2];
  TokenRows rows;  ///< of tensors that hold the member's own tokens alone, in order

  std::int64_t size() const { return runs[0].size() + runs[1].size(); }
};

inline MemberTokens member_tokens(std::int64_t n, std::int64_t ring_size, ShardLayout layout,
                                  std::int64_t member) {
  const bool zigzag = layout == ShardLayout::zigzag;
  // Sums that overflow name runs past any sequence's end.
  constexpr std::int64_t most = (std::numeric_limits<std::int64_t>::max)();
  const auto plus_ring_size = [&](std::int64_t run) {
    return run > most - ring_size ? most : run + ring_size;
  };
  const SequenceRuns sequence(n, zigzag ? plus_ring_size(ring_size) : ring_size);
  const TokenRun first{sequence.begin(member), sequence.end(member)};
  const std::int64_t mirror = plus_ring_size(ring_size - 1 - member);
  const TokenRun second = zigzag ? TokenRun{sequence.begin(mirror), sequence.end(mirror)} : TokenRun{n, n};
  return {{first, second}, {second.begin, -first.begin, first.size() - second.begin}};
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
