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

/// Tokens [begin, end). Their rows in the caller's tensors are `token + row_shift`; in arrays that hold a
/// number per row of one member they are `token + number_shift`.
struct TokenRun {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t row_shift = 0;
  std::int64_t number_shift = 0;
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

/// Which row of a tensor holds a token: the map of a member's own rows, of whole tensors, or of a run.
struct TokenRows {
  std::int64_t second = (std::numeric_limits<std::int64_t>::max)();  ///< where the member's second run begins
  std::int64_t shift = 0;         ///< row of a token before it, less the token
  std::int64_t second_shift = 0;  ///< the same from there on

  std::int64_t operator()(std::int64_t token) const {
    return token + (token < second ? shift : second_shift);
  }
};

/// The runs of one ring member, ascending; either may be empty. Numbers count the member's rows from 0.
struct MemberTokens {
  TokenRun runs[2];
  std::int64_t size() const { return runs[0].size() + runs[1].size(); }
  /// Rows of the member's tensors.
  TokenRows rows() const { return {runs[1].begin, runs[0].row_shift, runs[1].row_shift}; }
  /// Rows of tensors that hold the member's own rows alone.
  TokenRows own_rows() const { return {runs[1].begin, runs[0].number_shift, runs[1].number_shift}; }
};

/// `whole`: the member's tensors hold the whole sequence; else its own rows in order.
inline MemberTokens member_tokens(std::int64_t n, std::int64_t ring_size, ShardLayout layout,
                                  std::int64_t member, bool whole) {
  const bool zigzag = layout == ShardLayout::zigzag;
  // Sums that overflow name runs past any sequence's end.
  constexpr std::int64_t most = (std::numeric_limits<std::int64_t>::max)();
  const auto plus_ring_size = [&](std::int64_t run) {
    return run > most - ring_size ? most : run + ring_size;
  };
  const SequenceRuns sequence(n, zigzag ? plus_ring_size(ring_size) : ring_size);
  MemberTokens tokens;
  tokens.runs[0] = {sequence.begin(member), sequence.end(member), 0, -sequence.begin(member)};
  const std::int64_t mirror = plus_ring_size(ring_size - 1 - member);
  const std::int64_t second = zigzag ? sequence.begin(mirror) : n;
  tokens.runs[1] = {second, zigzag ? sequence.end(mirror) : n, 0, tokens.runs[0].size() - second};
  if (!whole) {
    for (TokenRun& run : tokens.runs) run.row_shift = run.number_shift;
  }
  return tokens;
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
