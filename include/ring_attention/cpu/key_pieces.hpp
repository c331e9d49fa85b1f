// Where the keys of a segment lie: pieces of a member's own tensors, pulled one after the other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <ring_attention/kernel/rows.hpp>
#include <ring_attention/pattern/progression.hpp>
#include <ring_attention/plan/meetings.hpp>
#include <ring_attention/plan/shards.hpp>
#include <ring_attention/tensor.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Keys and values that queries meet, and where they lie.
template <class Scalar>
struct KeyPiece {
  Progression tokens;
  Rows<const Scalar> keys, values;

  /// The keys at positions [begin, end).
  KeyPiece sub(std::int64_t begin, std::int64_t end) const {
    return {tokens.sub(begin, end), keys.skip(begin), values.skip(begin)};
  }
};

/// Rows of tokens in a tensor whose row r holds token r - row_shift.
template <class Element>
Rows<Element> rows_of(const TensorView<Element>& tensor, const Progression& tokens, std::int64_t row_shift,
                      std::int64_t item, std::int64_t head) {
  if (tokens.count == 0) return {};
  return {tensor.row(item, tokens.first + row_shift, head), tensor.strides()[1] * tokens.stride};
}

/// Keys and values of whole tensors, or of a member's own run.
template <class Tensors>
auto piece_of(const Tensors& tensors, const Progression& tokens, std::int64_t row_shift, std::int64_t item,
              std::int64_t kv_head) {
  using Scalar = typename decltype(tensors.k)::value_type;
  return KeyPiece<Scalar>{tokens, rows_of(tensors.k, tokens, row_shift, item, kv_head),
                          rows_of(tensors.v, tokens, row_shift, item, kv_head)};
}

/// Runs of tokens that a member owns, in order.
class MemberRuns {
 public:
  explicit MemberRuns(const detail::MemberTokens& tokens) : tokens_(&tokens) {}

  bool next(detail::TokenRun& run) {
    if (taken_ == 2) return false;
    run = tokens_->runs[taken_++];
    return true;
  }

 private:
  const detail::MemberTokens* tokens_;
  int taken_ = 0;
};

/// The shards that a segment reaches into, in the ring's order: a shard's own keys first, then those of the
/// member before it, and around.
class RingOrder {
 public:
  RingOrder(const detail::SequenceRuns& shards, std::int64_t shard, const detail::Segment& segment)
      : shards_(&shards),
        shard_(shard),
        first_(shards.of_token(segment.begin)),
        count_(shards.of_token(segment.end - 1) - first_ + 1) {}

  bool next(detail::TokenRun& run) {
    if (step_ == count_) return false;
    const std::int64_t source = first_ + (shard_ - first_ - step_++ + count_) % count_;
    run = {shards_->begin(source), shards_->end(source), 0, 0};
    return true;
  }

 private:
  const detail::SequenceRuns* shards_;
  std::int64_t shard_, first_, count_;
  std::int64_t step_ = 0;
};

/// One run.
class OneRun {
 public:
  explicit OneRun(const detail::TokenRun& run) : run_(run) {}

  bool next(detail::TokenRun& run) {
    if (taken_) return false;
    taken_ = true;
    run = run_;
    return true;
  }

 private:
  detail::TokenRun run_;
  bool taken_ = false;
};

/// The keys of a segment that lie in runs of a member's own tensors and among the tokens [begin, end).
template <class Scalar, class Runs>
class LocalPieces {
 public:
  LocalPieces(const TensorView<const Scalar>& k, const TensorView<const Scalar>& v,
              const detail::Segment& segment, std::int64_t item, std::int64_t kv_head, const Runs& runs,
              std::int64_t begin, std::int64_t end)
      : k_(&k),
        v_(&v),
        segment_(&segment),
        item_(item),
        kv_head_(kv_head),
        runs_(runs),
        begin_(begin),
        end_(end) {}
  LocalPieces(const TensorView<const Scalar>& k, const TensorView<const Scalar>& v,
              const detail::Segment& segment, std::int64_t item, std::int64_t kv_head, const Runs& runs)
      : LocalPieces(k, v, segment, item, kv_head, runs, segment.begin, segment.end) {}

  bool next(KeyPiece<Scalar>& piece) {
    while (!keys_.next()) {
      if (!runs_.next(run_)) return false;
      const std::int64_t begin = (std::max)(run_.begin, begin_);
      keys_ = detail::KeyRunWalk(*segment_, begin, (std::max)(begin, (std::min)(run_.end, end_)));
    }
    piece = {*keys_, rows_of(*k_, *keys_, run_.row_shift, item_, kv_head_),
             rows_of(*v_, *keys_, run_.row_shift, item_, kv_head_)};
    return true;
  }
  /// The run that the last piece lies in.
  const detail::TokenRun& run() const { return run_; }

 private:
  const TensorView<const Scalar>*k_, *v_;
  const detail::Segment* segment_;
  std::int64_t item_, kv_head_;
  Runs runs_;
  std::int64_t begin_, end_;
  detail::TokenRun run_;
  detail::KeyRunWalk keys_;
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
