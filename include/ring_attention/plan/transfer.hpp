// What travels between ring members: for a sender and a receiver, the kept rows that the receiver's queries
// can see.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ring_attention/pattern/progression.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/plan/shards.hpp>
#include <ring_attention/version.hpp>
#include <tuple>
#include <vector>

#if RING_ATTENTION_DEFINES_ENGINE
#include <algorithm>
#include <ring_attention/plan/meetings.hpp>
#include <utility>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

struct Meeting;

/// Keys at equal distances, and the row of a message from which on they lie there.
struct KeyPlace {
  Progression tokens;
  std::int64_t message_row = 0;
};

/// Key rows of one segment and offset class, or of consecutive listed blocks, that one run of the sender
/// holds.
struct TransferPiece {
  std::int64_t item;
  std::size_t branch;
  std::int64_t kv_head;
  std::size_t offset;
  Progression tokens;
  std::int64_t first_row;  // in the message

  auto place() const { return std::tuple(item, branch, kv_head, offset); }
};

/// The rows of one message in order; sender and receiver derive the same list from the plan.
class Transfer {
 public:
  Transfer() = default;

  Transfer(const AttentionPlan& plan, const MemberTokens& sender, const MemberTokens& receiver);

  std::int64_t rows() const { return rows_; }
  const std::vector<TransferPiece>& pieces() const { return pieces_; }

  /// Where the message holds the keys of a meeting that lie among the tokens [begin, end).
  class Places;

 private:
  /// Appends the rows of one branch, key/value head and residue class.
  void add(const AttentionPlan& plan, const SequencePlan& sequence, const MemberTokens& sender,
           const MemberTokens& receiver, TransferPiece piece);

  std::vector<TransferPiece> pieces_;
  std::int64_t rows_ = 0;
};

#if RING_ATTENTION_DEFINES_ENGINE

class Transfer::Places {
 public:
  Places(const Transfer& transfer, std::int64_t item, std::int64_t kv_head, const Meeting& meeting,
         std::int64_t begin, std::int64_t end)
      : pieces_(transfer.pieces_),
        of_meeting_(item, meeting.branch, kv_head, meeting.offset),
        keys_(meeting.segment, (std::max)(begin, meeting.segment.begin),
              (std::min)(end, meeting.segment.end)),
        at_(pieces_.end()) {}

  bool next(KeyPlace& place) {
    for (;;) {
      if (at_ != pieces_.end() && at_->place() == of_meeting_ && at_->tokens.first <= (*keys_).last()) {
        const Progression& tokens = at_->tokens;
        const std::int64_t skipped = tokens.count_below((*keys_).first);
        place = {tokens.sub(skipped, tokens.count_below((*keys_).last() + 1)), at_->first_row + skipped};
        ++at_;
        return true;
      }
      if (!keys_.next()) return false;
      const auto ends_before = [this](const TransferPiece& each, std::int64_t token) {
        return each.place() < of_meeting_ || (each.place() == of_meeting_ && each.tokens.last() < token);
      };
      at_ = std::lower_bound(pieces_.begin(), pieces_.end(), (*keys_).first, ends_before);
    }
  }

 private:
  const std::vector<TransferPiece>& pieces_;
  std::tuple<std::int64_t, std::size_t, std::int64_t, std::size_t> of_meeting_;
  KeyRunWalk keys_;
  std::vector<TransferPiece>::const_iterator at_;
};

/// Tokens of `queries` in segments that reach into `keys`: at most one segment lies across a gap between
/// the runs. Empty where begin >= end.
inline std::pair<std::int64_t, std::int64_t> common_tokens(const BranchPlan& branch, const TokenRun& queries,
                                                           const TokenRun& keys) {
  if (queries.size() == 0 || keys.size() == 0) return {0, 0};
  const std::int64_t w = branch.segment_length;
  return {(std::max)(queries.begin, keys.begin / w * w), (std::min)(queries.end, ceil_div(keys.end, w) * w)};
}

inline bool meet(const BranchPlan& branch, const MemberTokens& sender, const MemberTokens& receiver) {
  for (const TokenRun& queries : receiver.runs) {
    for (const TokenRun& run : sender.runs) {
      const auto [from, to] = common_tokens(branch, queries, run);
      if (from < to) return true;
    }
  }
  return false;
}

/// Several queries of a receiver ask for the same rows, which travel once. Adds `next`, which begins no
/// earlier, if the two overlap or touch; overlapping pieces keep rows of the same class.
inline bool unite(TransferPiece& piece, const TransferPiece& next) {
  Progression& tokens = piece.tokens;
  const bool touch = next.tokens.first == tokens.last() + tokens.stride &&
                     (tokens.stride == next.tokens.stride || next.tokens.count == 1);
  if (!touch && next.tokens.first > tokens.last()) return false;
  tokens.count = ((std::max)(tokens.last(), next.tokens.last()) - tokens.first) / tokens.stride + 1;
  return true;
}

RING_ATTENTION_INLINE Transfer::Transfer(const AttentionPlan& plan, const MemberTokens& sender,
                                         const MemberTokens& receiver) {
  const std::int64_t group = plan.shape.heads / plan.shape.kv_heads;
  std::vector<std::int64_t> heads(static_cast<std::size_t>(group));
  for (std::int64_t item = 0; item < plan.shape.batch; ++item) {
    const SequencePlan& sequence = plan.sequence_of(item);
    for (std::size_t b = 0; b < sequence.branches.size(); ++b) {
      const BranchPlan& branch = sequence.branches[b];
      if (!meet(branch, sender, receiver)) continue;  // most of a large ring
      for (std::int64_t kv_head = 0; kv_head < plan.shape.kv_heads; ++kv_head) {
        for (std::size_t o = 0; o < branch.offsets.size(); ++o) {
          if (heads_with_offset(branch, o, kv_head * group, (kv_head + 1) * group, heads.data()) == 0) {
            continue;
          }
          add(plan, sequence, sender, receiver, {item, b, kv_head, o, {}, 0});
        }
      }
    }
  }
}

RING_ATTENTION_INLINE void Transfer::add(const AttentionPlan& plan, const SequencePlan& sequence,
                                         const MemberTokens& sender, const MemberTokens& receiver,
                                         TransferPiece piece) {
  const BranchPlan& branch = sequence.branches[piece.branch];
  std::vector<TransferPiece> wanted;
  for (const TokenRun& queries : receiver.runs) {
    for (const TokenRun& run : sender.runs) {
      const auto [from, to] = common_tokens(branch, queries, run);
      if (from >= to) continue;
      for (SegmentWalk segments(plan, sequence, piece.branch, piece.offset, from, to); segments.next();) {
        const std::int64_t last_query = segments->queries.last();
        const std::int64_t end = plan.causal ? (std::min)(run.end, last_query + 1) : run.end;
        for (KeyRunWalk keys(*segments, run.begin, end); keys.next();) {
          piece.tokens = *keys;
          wanted.push_back(piece);
        }
      }
    }
  }
  std::sort(wanted.begin(), wanted.end(),
            [](const TransferPiece& x, const TransferPiece& y) { return x.tokens.first < y.tokens.first; });
  const std::size_t first_piece = pieces_.size();
  for (const TransferPiece& next : wanted) {
    if (pieces_.size() == first_piece || !unite(pieces_.back(), next)) pieces_.push_back(next);
  }
  for (std::size_t i = first_piece; i < pieces_.size(); ++i) {
    pieces_[i].first_row = rows_;
    rows_ += pieces_[i].tokens.count;
  }
}

#endif

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
