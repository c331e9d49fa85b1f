// Which query rows of a head meet the same keys: residue classes between the borders of segments.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <ring_attention/plan/meetings.hpp>
#include <ring_attention/plan/plan.hpp>
#include <span>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// The segments of one branch that a head has queries in, in order.
using BranchSegments = std::vector<Segment>;

/// Walks the classes of rows [0, length) under some branches of one head: rows that belong to the same
/// segments, as few and as close to each other as the rates allow. Together they hold every row once.
class RowClassWalk {
 public:
  RowClassWalk(std::span<const BranchSegments> branches, std::int64_t length)
      : branches_(branches), cursors_(branches.size(), 0), length_(length) {}

  /// Goes to the next class; false at the end.
  bool next() {
    for (;;) {
      if (pending_.empty() && !next_window()) return false;
      rows_ = pending_.back();
      pending_.pop_back();
      if (!split()) return true;
    }
  }
  /// The rows; never empty.
  const Progression& rows() const { return rows_; }
  /// The tokens [begin(), end()) that their segments have in common, between two borders.
  std::int64_t begin() const { return begin_; }
  std::int64_t end() const { return end_; }
  /// The segments that they attend in, in the order of the branches.
  std::span<const Segment* const> segments() const { return segments_; }

 private:
  /// A segment that reaches into the window. Of the window's rows it has all of one residue class.
  struct Member {
    const Segment* segment;
    std::int64_t first, rate;
  };

  /// The tokens [begin, end) that belong to a segment or to no other.
  static Progression extent(const Segment& segment) {
    if (segment.block_size == 0) return {segment.begin, 1, segment.end - segment.begin};
    return segment.queries;
  }

  /// Goes to the rows up to the next border of a segment.
  bool next_window() {
    if (end_ >= length_) return false;
    begin_ = end_;
    end_ = length_;
    members_.clear();
    for (std::size_t i = 0; i < branches_.size(); ++i) {
      const BranchSegments& segments = branches_[i];
      std::size_t& cursor = cursors_[i];
      while (cursor < segments.size() && extent(segments[cursor]).last() < begin_) ++cursor;
      if (cursor == segments.size()) continue;
      const Progression tokens = extent(segments[cursor]);
      if (tokens.first > begin_) {
        end_ = (std::min)(end_, tokens.first);
        continue;
      }
      end_ = (std::min)(end_, tokens.last() + 1);
      // A row that is alone may come with any stride.
      const Progression& queries = segments[cursor].queries;
      members_.push_back(
          {&segments[cursor], queries.first, queries.count > 1 ? queries.stride : tokens.count});
    }
    pending_.push_back({begin_, 1, end_ - begin_});
    return true;
  }

  /// Divides rows_ if some of them belong to a member and others do not; otherwise lists their segments.
  bool split() {
    segments_.clear();
    for (const Member& member : members_) {
      const std::int64_t period = member.rate / std::gcd(rows_.stride, member.rate);
      std::int64_t own = 0;  // position of the first row that belongs to the member
      while (own < (std::min)(period, rows_.count) && (rows_[own] - member.first) % member.rate != 0) ++own;
      if (own == (std::min)(period, rows_.count)) continue;
      if (period > 1 && rows_.count > 1) {
        divide(own, period);
        return true;
      }
      segments_.push_back(member.segment);
    }
    return false;
  }

  /// Divides rows_, of which every `period`-th from `own` on belongs to a member, into residue classes modulo
  /// the smallest prime factor of the period. If that makes more classes than the member's rows leave runs
  /// between them, into its rows and these runs.
  void divide(std::int64_t own, std::int64_t period) {
    const Progression rows = rows_;
    const std::int64_t factor = smallest_factor(period, rows.count);
    const std::int64_t own_count = (rows.count - own - 1) / period + 1;
    if (own_count + 2 < factor) {
      std::int64_t end = rows.count;
      for (std::int64_t i = own_count - 1; i >= 0; --i) {
        push(rows.sub(own + i * period + 1, end));
        end = own + i * period;
      }
      push(rows.sub(0, end));
      push({rows[own], own_count > 1 ? rows.stride * period : 1, own_count});
      return;
    }
    for (std::int64_t i = (std::min)(factor, rows.count) - 1; i >= 0; --i) {
      push({rows[i], rows.stride * factor, (rows.count - i - 1) / factor + 1});
    }
  }

  void push(const Progression& rows) {
    if (rows.count == 0) return;
    pending_.push_back(rows);
    if (rows.count == 1) pending_.back().stride = 1;
  }

  static std::int64_t smallest_factor(std::int64_t number, std::int64_t largest) {
    for (std::int64_t factor = 2; factor <= largest && factor <= number / factor; ++factor) {
      if (number % factor == 0) return factor;
    }
    return number;
  }

  std::span<const BranchSegments> branches_;
  std::vector<std::size_t> cursors_;
  std::int64_t length_;
  std::int64_t begin_ = 0, end_ = 0;  // of the window
  std::vector<Member> members_;
  std::vector<Progression> pending_;  // classes of the window, the next one last
  Progression rows_;
  std::vector<const Segment*> segments_;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
