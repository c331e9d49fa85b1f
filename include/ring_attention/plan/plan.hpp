// AttentionPlan: which rows meet which rows in one call, as plain data.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/config.hpp>
#include <ring_attention/pattern/progression.hpp>
#include <ring_attention/version.hpp>
#include <span>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// Extents of one call.
struct CallShape {
  std::int64_t batch = 0;     ///< b
  std::int64_t tokens = 0;    ///< n, of the whole sequence
  std::int64_t heads = 0;     ///< h, query heads
  std::int64_t kv_heads = 0;  ///< h_kv, which divides h
  std::int64_t head_dim = 0;  ///< d

  /// Whether every extent is equal.
  friend bool operator==(const CallShape&, const CallShape&) = default;
};

/// One branch (w, r) as the heads [head_begin, head_end) run it on a sequence of one length.
struct BranchPlan {
  /// One residue class of the branch and the rows that it keeps.
  struct Offset {
    std::int64_t offset = 0;  ///< o, in [0, r)
    Progression kept;         ///< rows of a whole segment, relative to its start
  };

  std::int64_t segment_length = 0;          ///< clipped to the sequence
  std::int64_t dilation_rate = 0;           ///< r
  std::int64_t head_begin = 0;              ///< first query head that runs it
  std::int64_t head_end = 0;                ///< one past the last
  std::vector<Offset> offsets;              ///< distinct residue classes
  std::vector<std::size_t> offset_of_head;  ///< position in offsets, by head - head_begin
};

/// For each query block its key blocks, ascending: those of block q are blocks[begin[q]] to
/// blocks[begin[q + 1] - 1].
struct BlockLists {
  std::span<const std::int64_t> begin;   ///< one number more than there are lists
  std::span<const std::int64_t> blocks;  ///< of all lists, one after the other

  /// Number of lists.
  std::size_t count() const { return begin.empty() ? 0 : begin.size() - 1; }
  /// The list of a block; empty for blocks past an item's length.
  std::span<const std::int64_t> of(std::size_t block) const {
    if (block >= count()) return {};
    return blocks.subspan(static_cast<std::size_t>(begin[block]),
                          static_cast<std::size_t>(begin[block + 1] - begin[block]));
  }
};

/// What happens in a sequence of one length.
struct SequencePlan {
  std::int64_t length = 0;           ///< valid tokens
  std::vector<BranchPlan> branches;  ///< those that any head runs
  BlockLists blocks;                 ///< of a block-sparse plan
};

/// Everything that a call computes but for its numbers, as data that any backend can execute.
struct AttentionPlan {
  CallShape shape;                        ///< of the whole call
  double scale = 1.0;                     ///< factor of the scores
  bool causal = false;                    ///< keys after a query's position are hidden from it
  QueryRule query_rule = QueryRule::all;  ///< which queries attend
  /// Segments are padded with zero keys up to ceil(w / r) rows that every query of the segment attends to.
  bool zero_keys = false;
  /// Backward takes the weights that mix the branches of a head for constants.
  bool detached_mix = false;
  std::int64_t ring_size = 1;  ///< P, number of shards
  /// Not 0: block-sparse, with blocks of that many tokens, clipped to the sequence. Each sequence then has
  /// one branch, one segment long.
  std::int64_t block_size = 0;
  std::vector<SequencePlan> sequences;        ///< one per distinct valid length
  std::vector<std::size_t> sequence_of_item;  ///< position in sequences, by batch item

  /// The plan of a batch item's sequence.
  const SequencePlan& sequence_of(std::int64_t item) const {
    return sequences[sequence_of_item[static_cast<std::size_t>(item)]];
  }
  /// The largest number of branches of a sequence.
  std::size_t branch_count() const {
    std::size_t count = 0;
    for (const SequencePlan& sequence : sequences) count = (std::max)(count, sequence.branches.size());
    return count;
  }
};

namespace detail {

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0); }

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
