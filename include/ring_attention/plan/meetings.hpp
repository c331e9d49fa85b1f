// Which rows meet which rows: walks that passes, messages and reports pull from,
//
//   for (MeetingWalk meetings(...); meetings.next();) ... *meetings ...
//
// by branch and residue class (MeetingWalk), within one of them (SegmentWalk), and the keys of a segment
// (KeyRunWalk).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/plan/block_lists.hpp>
#include <ring_attention/plan/plan.hpp>
#include <span>
#include <utility>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// One segment of one branch as one residue class sees it; or one query block and the keys that it lists.
struct Segment {
  std::int64_t begin = 0;
  std::int64_t end = 0;         ///< cut off at the sequence's length
  Progression kept;             ///< its keys; not used where blocks are listed
  Progression queries;          ///< queries of the walked range that attend to them; not empty
  std::int64_t zero_keys = 0;   ///< rows of padding that every query attends to as well
  std::int64_t block_size = 0;  ///< not 0: `key_blocks` are the keys
  std::span<const std::int64_t> key_blocks = {};  ///< ascending
};

/// The segments of one residue class of a branch that have queries among the tokens [begin, end), in order;
/// of a block-sparse plan, the query blocks.
class SegmentWalk {
 public:
  SegmentWalk() = default;
  SegmentWalk(const AttentionPlan& plan, const SequencePlan& sequence, std::size_t branch, std::size_t offset,
              std::int64_t begin, std::int64_t end)
      : plan_(&plan),
        sequence_(&sequence),
        branch_(&sequence.branches[branch]),
        kept_(branch_->offsets[offset].kept),
        begin_(begin),
        end_((std::min)(end, sequence.length)),
        step_(plan.block_size > 0 ? plan.block_size : branch_->segment_length),
        next_(begin_ < end_ ? begin_ / step_ * step_ : end_) {}

  /// Goes to the next segment; false at the end.
  bool next() {
    while (next_ < end_) {
      const std::int64_t start = next_;
      next_ = step_ < end_ - next_ ? next_ + step_ : end_;
      if (plan_->block_size > 0 ? read_block(start) : read_segment(start)) return true;
    }
    return false;
  }
  const Segment& operator*() const { return segment_; }
  const Segment* operator->() const { return &segment_; }

 private:
  bool read_segment(std::int64_t start) {
    const std::int64_t length = sequence_->length;
    segment_.begin = start;
    segment_.end = step_ < length - start ? start + step_ : length;
    segment_.kept = kept_.sub(0, kept_.count_below(segment_.end - start)).moved(start);
    const Progression asking =
        plan_->query_rule == QueryRule::dilated ? segment_.kept : Progression{start, 1, segment_.end - start};
    segment_.queries = asking.within(begin_, end_);
    segment_.zero_keys =
        plan_->zero_keys ? ceil_div(step_, branch_->dilation_rate) - segment_.kept.count : std::int64_t{0};
    return segment_.queries.count > 0;
  }

  bool read_block(std::int64_t start) {
    const std::int64_t block = start / step_;
    segment_.begin = 0;
    segment_.end = sequence_->length;
    segment_.block_size = step_;
    segment_.key_blocks = sequence_->blocks.of(static_cast<std::size_t>(block));
    segment_.queries = block_tokens(block, block + 1, step_, sequence_->length).within(begin_, end_);
    return !segment_.key_blocks.empty();
  }

  const AttentionPlan* plan_ = nullptr;
  const SequencePlan* sequence_ = nullptr;
  const BranchPlan* branch_ = nullptr;
  Progression kept_;
  std::int64_t begin_ = 0, end_ = 0, step_ = 1, next_ = 0;
  Segment segment_;
};

/// Writes the heads of [head_begin, head_end) that keep an offset class of a branch; returns how many.
/// Without memory to write to it only counts.
inline std::int64_t heads_with_offset(const BranchPlan& branch, std::size_t offset, std::int64_t head_begin,
                                      std::int64_t head_end, std::int64_t* heads) {
  std::int64_t count = 0;
  for (std::int64_t head = (std::max)(head_begin, branch.head_begin);
       head < (std::min)(head_end, branch.head_end); ++head) {
    if (branch.offset_of_head[static_cast<std::size_t>(head - branch.head_begin)] != offset) continue;
    if (heads != nullptr) heads[count] = head;
    ++count;
  }
  return count;
}

/// Query rows that meet the keys of a segment: which residue class of which branch, for which heads.
struct Meeting {
  std::size_t branch = 0;  ///< of the item's sequence
  std::size_t offset = 0;  ///< residue class of the branch
  const std::int64_t* heads = nullptr;
  std::int64_t head_count = 0;
  Segment segment;
};

/// All meetings of the query heads [head_begin, head_end) of a batch item among the tokens [begin, end):
/// branch by branch, class by class, in the order of the tokens.
class MeetingWalk {
 public:
  /// `heads` has room for head_end - head_begin numbers.
  MeetingWalk(const AttentionPlan& plan, std::int64_t item, std::int64_t head_begin, std::int64_t head_end,
              std::int64_t begin, std::int64_t end, std::int64_t* heads)
      : plan_(plan),
        sequence_(plan.sequence_of(item)),
        head_begin_(head_begin),
        head_end_(head_end),
        begin_(begin),
        end_(end),
        heads_(heads) {}

  /// Goes to the next meeting; false at the end.
  bool next() {
    while (!segments_.next()) {
      if (!next_class()) return false;
    }
    meeting_.segment = *segments_;
    return true;
  }
  const Meeting& operator*() const { return meeting_; }
  const Meeting* operator->() const { return &meeting_; }

 private:
  /// Goes to the next residue class that any of the heads keeps.
  bool next_class() {
    for (; branch_ < sequence_.branches.size(); ++branch_, offset_ = 0) {
      const BranchPlan& branch = sequence_.branches[branch_];
      while (offset_ < branch.offsets.size()) {
        const std::size_t offset = offset_++;
        const std::int64_t count = heads_with_offset(branch, offset, head_begin_, head_end_, heads_);
        if (count == 0) continue;
        meeting_ = {branch_, offset, heads_, count, {}};
        segments_ = SegmentWalk(plan_, sequence_, branch_, offset, begin_, end_);
        return true;
      }
    }
    return false;
  }

  const AttentionPlan& plan_;
  const SequencePlan& sequence_;
  std::int64_t head_begin_, head_end_, begin_, end_;
  std::int64_t* heads_;
  std::size_t branch_ = 0, offset_ = 0;  // the class that comes next
  SegmentWalk segments_;
  Meeting meeting_;
};

/// The runs of a segment's keys that lie among the tokens [begin, end), in order.
class KeyRunWalk {
 public:
  KeyRunWalk() = default;
  KeyRunWalk(const Segment& segment, std::int64_t begin, std::int64_t end)
      : block_size_(segment.block_size), length_(segment.end), begin_(begin), end_(end) {
    if (block_size_ == 0) {
      keys_ = segment.kept.within(begin, end);
      pending_ = keys_.count > 0;
      return;
    }
    const auto listed = segment.key_blocks;
    const auto from = std::lower_bound(listed.begin(), listed.end(), begin / block_size_);
    blocks_ = ListCursor(std::span(from, listed.end()));
  }

  /// Goes to the next run; false at the end.
  bool next() {
    if (block_size_ == 0) return std::exchange(pending_, false);
    while (blocks_.begin() != ListCursor::none) {
      const Progression tokens = block_tokens(blocks_.begin(), blocks_.end(), block_size_, length_);
      if (tokens.first >= end_) return false;
      blocks_.advance(blocks_.end());
      keys_ = tokens.within(begin_, end_);
      if (keys_.count > 0) return true;
    }
    return false;
  }
  const Progression& operator*() const { return keys_; }

 private:
  std::int64_t block_size_ = 0, length_ = 0, begin_ = 0, end_ = 0;
  bool pending_ = false;
  ListCursor blocks_;
  Progression keys_;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
