// Where the keys of a segment lie: pieces of a member's own tensors, pulled one after the other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <ring_attention/kernel/rows.hpp>
#include <ring_attention/pattern/progression.hpp>
#include <ring_attention/plan/meetings.hpp>
#include <ring_attention/plan/shards.hpp>
#include <ring_attention/plan/transfer.hpp>
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

/// Keys and values, or their gradients, in tensors.
template <class Element>
struct KeyTensors {
  TensorView<Element> keys, values;
  detail::TokenRows rows;

  /// The rows of a place; all of its tokens lie in one run.
  KeyRows<Element> at(const detail::KeyPlace& place, std::int64_t item, std::int64_t kv_head) const {
    const Progression& tokens = place.tokens;
    if (tokens.count == 0) return {};
    const std::int64_t first = rows(tokens.first);
    return {{keys.row(item, first, kv_head), keys.strides()[1] * tokens.stride},
            {values.row(item, first, kv_head), values.strides()[1] * tokens.stride}};
  }
};

/// The keys of a place; `keys.at(...)` says where they lie.
template <class Scalar, class Keys>
KeyPiece<Scalar> piece_of(const Keys& keys, const detail::KeyPlace& place, std::int64_t item,
                          std::int64_t kv_head) {
  const KeyRows<const Scalar> rows = keys.at(place, item, kv_head);
  return {place.tokens, rows.keys, rows.values};
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
    run = {shards_->begin(source), shards_->end(source)};
    return true;
  }

 private:
  const detail::SequenceRuns* shards_;
  std::int64_t shard_, first_, count_;
  std::int64_t step_ = 0;
};

/// Where runs of a member's tensors hold the keys of a segment that lie among the tokens [begin, end).
template <class Runs>
class LocalPlaces {
 public:
  LocalPlaces(const detail::Segment& segment, const Runs& runs, std::int64_t begin, std::int64_t end)
      : segment_(&segment), runs_(runs), begin_(begin), end_(end) {}

  bool next(detail::KeyPlace& place) {
    detail::TokenRun run;
    while (!keys_.next()) {
      if (!runs_.next(run)) return false;
      const std::int64_t begin = (std::max)(run.begin, begin_);
      keys_ = detail::KeyRunWalk(*segment_, begin, (std::max)(begin, (std::min)(run.end, end_)));
    }
    place = {*keys_, 0};
    return true;
  }

 private:
  const detail::Segment* segment_;
  Runs runs_;
  std::int64_t begin_, end_;
  detail::KeyRunWalk keys_;
};

/// Keys of a member's own runs.
template <class Element>
struct OwnKeys : KeyTensors<Element> {
  OwnKeys(const TensorView<Element>& k, const TensorView<Element>& v, const detail::MemberTokens& tokens,
          const detail::TokenRows& of_tensors)
      : KeyTensors<Element>{k, v, of_tensors}, mine(&tokens) {}

  LocalPlaces<MemberRuns> places(std::int64_t, std::int64_t, const detail::Meeting& meeting,
                                 std::int64_t begin, std::int64_t end) const {
    return {meeting.segment, MemberRuns(*mine), begin, end};
  }

  const detail::MemberTokens* mine;
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
