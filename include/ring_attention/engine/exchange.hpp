// What travels between ring members: for a sender and a receiver, the kept rows that the receiver's queries
// can see.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/engine/forward.hpp>
#include <ring_attention/engine/plan.hpp>
#include <ring_attention/engine/shards.hpp>
#include <ring_attention/engine/walk.hpp>
#include <ring_attention/tensor.hpp>
#include <tuple>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Kept rows of one segment and offset class that one run of the sender holds.
struct TransferPiece {
  std::int64_t item;
  std::size_t branch;
  std::int64_t kv_head;
  std::size_t offset;
  std::int64_t segment_begin;
  detail::TokenList tokens;
  std::int64_t first_row;  // in the message
  std::int64_t row_shift;  // of the sender's run
  std::int64_t number_shift;

  auto place() const { return std::tuple(item, branch, kv_head, offset, segment_begin); }
};

/// The rows of one message in order; sender and receiver derive the same list from the plan.
class Transfer {
 public:
  Transfer() = default;

  Transfer(const AttentionPlan& plan, const detail::MemberTokens& sender,
           const detail::MemberTokens& receiver) {
    const std::int64_t group = plan.shape.heads / plan.shape.kv_heads;
    std::vector<std::int64_t> heads(static_cast<std::size_t>(group));
    for (std::int64_t item = 0; item < plan.shape.batch; ++item) {
      const SequencePlan& sequence = plan.sequence_of(item);
      for (std::size_t b = 0; b < sequence.branches.size(); ++b) {
        const BranchPlan& branch = sequence.branches[b];
        for (std::int64_t kv_head = 0; kv_head < plan.shape.kv_heads; ++kv_head) {
          for (std::size_t o = 0; o < branch.offsets.size(); ++o) {
            if (detail::heads_with_offset(branch, o, kv_head * group, (kv_head + 1) * group, heads.data()) ==
                0) {
              continue;
            }
            add(plan, sequence.length, branch, branch.offsets[o], sender, receiver,
                {item, b, kv_head, o, 0, {}, 0, 0, 0});
          }
        }
      }
    }
  }

  std::int64_t rows() const { return rows_; }
  const std::vector<TransferPiece>& pieces() const { return pieces_; }

  /// Calls visit(piece) for the pieces of one segment.
  template <class Visit>
  void for_each_piece(std::int64_t item, std::size_t branch, std::int64_t kv_head, std::size_t offset,
                      std::int64_t segment_begin, const Visit& visit) const {
    const auto place = std::tuple(item, branch, kv_head, offset, segment_begin);
    auto at =
        std::lower_bound(pieces_.begin(), pieces_.end(), place,
                         [](const TransferPiece& piece, const auto& key) { return piece.place() < key; });
    for (; at != pieces_.end() && at->place() == place; ++at) visit(*at);
  }

 private:
  void add(const AttentionPlan& plan, std::int64_t length, const BranchPlan& branch,
           const BranchPlan::Offset& offset, const detail::MemberTokens& sender,
           const detail::MemberTokens& receiver, TransferPiece piece) {
    // The receiver's queries of a segment: its runs ascend, so the last one seen is the latest query.
    const std::size_t first_piece = pieces_.size();
    for (const detail::TokenRun& queries : receiver.runs) {
      for (const detail::TokenRun& run : sender.runs) {
        if (run.size() == 0 || queries.size() == 0) continue;
        // Only segments that reach from one run into the other matter: at most one lies across a gap.
        const std::int64_t w = branch.segment_length;
        const std::int64_t from = std::max(queries.begin, run.begin / w * w);
        const std::int64_t to = std::min(queries.end, detail::ceil_div(run.end, w) * w);
        detail::for_each_segment(
            plan, length, branch, offset, from, std::max(from, to), [&](const detail::Segment& segment) {
              piece.segment_begin = segment.begin;
              piece.tokens = detail::kept_within(segment, run.begin, run.end);
              piece.row_shift = run.row_shift;
              piece.number_shift = run.number_shift;
              if (plan.causal) {
                const std::int64_t last_query = segment.queries[segment.queries.count - 1];
                piece.tokens = piece.tokens.sub(0, piece.tokens.count_until(last_query));
              }
              if (piece.tokens.count > 0) merge(piece, first_piece);
            });
      }
    }
    std::sort(pieces_.begin() + static_cast<std::ptrdiff_t>(first_piece), pieces_.end(),
              [](const TransferPiece& x, const TransferPiece& y) {
                return std::pair(x.segment_begin, x.tokens[0]) < std::pair(y.segment_begin, y.tokens[0]);
              });
    for (std::size_t i = first_piece; i < pieces_.size(); ++i) {
      pieces_[i].first_row = rows_;
      rows_ += pieces_[i].tokens.count;
    }
  }

  /// Both runs of a receiver may ask for the same rows; they travel once. Pieces of one run start alike.
  void merge(const TransferPiece& piece, std::size_t first_piece) {
    for (std::size_t i = first_piece; i < pieces_.size(); ++i) {
      if (pieces_[i].segment_begin == piece.segment_begin && pieces_[i].tokens[0] == piece.tokens[0]) {
        if (piece.tokens.count > pieces_[i].tokens.count) pieces_[i].tokens = piece.tokens;
        return;
      }
    }
    pieces_.push_back(piece);
  }

  std::vector<TransferPiece> pieces_;
  std::int64_t rows_ = 0;
};

/// A message of keys and values: all key rows, then all value rows, head_dim elements each.
template <class Scalar>
struct KeyMessage {
  std::vector<Scalar> data;

  void resize(const Transfer& transfer, std::int64_t head_dim) {
    data.resize(static_cast<std::size_t>(2 * transfer.rows() * head_dim));
  }

  void pack(const Transfer& transfer, const TensorView<const Scalar>& k, const TensorView<const Scalar>& v) {
    const std::int64_t head_dim = k.shape()[3];
    resize(transfer, head_dim);
    Scalar* keys = data.data();
    Scalar* values = keys + transfer.rows() * head_dim;
    for (const TransferPiece& piece : transfer.pieces()) {
      for (std::int64_t i = 0; i < piece.tokens.count; ++i) {
        const std::int64_t row = piece.tokens[i] + piece.row_shift;
        keys = std::copy_n(k.row(piece.item, row, piece.kv_head), head_dim, keys);
        values = std::copy_n(v.row(piece.item, row, piece.kv_head), head_dim, values);
      }
    }
  }

  KeyPiece<Scalar> piece(const Transfer& transfer, const TransferPiece& piece, std::int64_t head_dim) const {
    return {piece.tokens,
            {data.data(), head_dim, nullptr, piece.first_row},
            {data.data() + transfer.rows() * head_dim, head_dim, nullptr, piece.first_row}};
  }
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
