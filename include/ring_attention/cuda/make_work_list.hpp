// From a plan to the work list of a GPU.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <ring_attention/cuda/branch_groups.hpp>
#include <ring_attention/cuda/row_classes.hpp>
#include <ring_attention/cuda/work_list.hpp>
#include <ring_attention/error.hpp>
#include <ring_attention/plan/meetings.hpp>
#include <ring_attention/plan/plan.hpp>
#include <span>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Throws std::invalid_argument for extents that the integers of a work list cannot hold. Kernels count rows
/// up to the end of a tile, which may lie behind the last token.
inline void check_work_shape(const CallShape& shape) {
  constexpr std::int64_t most = (std::numeric_limits<std::int32_t>::max)() - 1023;
  const auto check_extent = [](const char* name, std::int64_t extent) {
    if (extent > most) throw_invalid(name, extent, "must be at most 2147482624 on a GPU");
  };
  check_extent("q batch size", shape.batch);
  check_extent("q tokens", shape.tokens);
  check_extent("q heads", shape.heads);
}

/// Makes the items of one head after the other, of every sequence.
class WorkListMaker {
 public:
  WorkListMaker(const AttentionPlan& plan, const WorkSizes& sizes) : plan_(plan), sizes_(sizes) {}

  WorkList make() {
    for (std::size_t sequence = 0; sequence < plan_.sequences.size(); ++sequence) add_sequence(sequence);
    order(partial_);
    order(final_);
    static_cast<void>(position_of(partial_.size() + final_.size()));  // a launch has no more blocks
    std::vector<WorkItem> items;
    items.reserve(partial_.size() + final_.size());
    for (const CostedItem& item : partial_) items.push_back(item.item);
    for (const CostedItem& item : final_) items.push_back(item.item);
    return {items, partial_.size(), spans_, states_, carried_rows_};
  }

 private:
  struct CostedItem {
    WorkItem item;
    std::int64_t cost;
  };

  /// What heads have in common that keep the same residue classes of the same branches: their items, whose
  /// slots count from 0.
  struct HeadPattern {
    std::vector<std::pair<std::size_t, std::size_t>> classes;  // branch and offset
    std::vector<CostedItem> partial_items, final_items;
    std::int64_t carried_rows = 0;
  };

  void add_sequence(std::size_t sequence) {
    std::vector<std::int64_t> items;
    for (std::size_t i = 0; i < plan_.sequence_of_item.size(); ++i) {
      if (plan_.sequence_of_item[i] == sequence) items.push_back(static_cast<std::int64_t>(i));
    }
    std::vector<HeadPattern> patterns;
    std::vector<std::size_t> pattern_of_head;
    for (std::int64_t head = 0; head < plan_.shape.heads; ++head) {
      const auto classes = classes_of(plan_.sequences[sequence], head);
      const auto known = std::find_if(patterns.begin(), patterns.end(),
                                      [&](const HeadPattern& pattern) { return pattern.classes == classes; });
      pattern_of_head.push_back(static_cast<std::size_t>(known - patterns.begin()));
      if (known != patterns.end()) continue;
      patterns.emplace_back().classes = classes;
      add_items(patterns.back(), sequence, head, static_cast<std::int64_t>(items.size()));
    }
    for (const std::int64_t item : items) {
      for (std::int64_t head = 0; head < plan_.shape.heads; ++head) {
        const HeadPattern& pattern = patterns[pattern_of_head[static_cast<std::size_t>(head)]];
        append_copies(pattern.partial_items, item, head, partial_);
        append_copies(pattern.final_items, item, head, final_);
        carried_rows_ += pattern.carried_rows;
      }
    }
  }

  static std::vector<std::pair<std::size_t, std::size_t>> classes_of(const SequencePlan& sequence,
                                                                     std::int64_t head) {
    std::vector<std::pair<std::size_t, std::size_t>> classes;
    for (std::size_t i = 0; i < sequence.branches.size(); ++i) {
      const BranchPlan& branch = sequence.branches[i];
      if (head < branch.head_begin || head >= branch.head_end) continue;
      classes.emplace_back(i, branch.offset_of_head[static_cast<std::size_t>(head - branch.head_begin)]);
    }
    return classes;
  }

  void append_copies(const std::vector<CostedItem>& from, std::int64_t item, std::int64_t head,
                     std::vector<CostedItem>& to) const {
    for (CostedItem copy : from) {
      copy.item.batch_item = static_cast<std::int32_t>(item);
      copy.item.head = static_cast<std::int32_t>(head);
      copy.item.carry += carried_rows_;
      to.push_back(copy);
    }
  }

  /// The segments of a head by branch, the densest branch first.
  std::vector<BranchSegments> segments_of(std::size_t sequence, std::int64_t head) const {
    const SequencePlan& rows = plan_.sequences[sequence];
    const auto item = std::find(plan_.sequence_of_item.begin(), plan_.sequence_of_item.end(), sequence) -
                      plan_.sequence_of_item.begin();
    std::vector<BranchSegments> of_branch(rows.branches.size());
    std::int64_t heads = 0;
    for (MeetingWalk meetings(plan_, item, head, head + 1, 0, rows.length, &heads); meetings.next();) {
      of_branch[meetings->branch].push_back(meetings->segment);
    }
    std::vector<std::size_t> by_density(of_branch.size());
    std::iota(by_density.begin(), by_density.end(), std::size_t{0});
    std::stable_sort(by_density.begin(), by_density.end(), [&](std::size_t a, std::size_t b) {
      return rows.branches[a].dilation_rate < rows.branches[b].dilation_rate;
    });
    std::vector<BranchSegments> segments;
    for (const std::size_t branch : by_density) {
      if (!of_branch[branch].empty()) segments.push_back(std::move(of_branch[branch]));
    }
    return segments;
  }

  void add_items(HeadPattern& pattern, std::size_t sequence, std::int64_t head, std::int64_t item_count) {
    const std::int64_t length = plan_.sequences[sequence].length;
    const std::vector<BranchSegments> segments = segments_of(sequence, head);
    const std::span<const BranchSegments> branches(segments);
    const std::vector<std::size_t> ends =
        divide_branches(branches, length, plan_.causal, item_count * plan_.shape.heads, sizes_);
    std::vector<std::vector<CarriedClass>> carried;  // by group
    for (std::size_t i = 1; i < ends.size(); ++i) {
      carried.push_back(
          add_partial_items(pattern, sequence, branches.subspan(ends[i - 1], ends[i] - ends[i - 1])));
    }
    add_final_items(pattern, sequence, branches.subspan(0, ends.empty() ? 0 : ends.front()), carried);
  }

  /// A class of rows whose states are carried, and the tokens [begin, end) that its segments have in common.
  struct CarriedClass {
    StateSpan states;
    std::int64_t begin, end;
  };

  /// Returns the classes in order of place.
  std::vector<CarriedClass> add_partial_items(HeadPattern& pattern, std::size_t sequence,
                                              std::span<const BranchSegments> group) {
    std::vector<CarriedClass> carried;
    for (RowClassWalk classes(group, plan_.sequences[sequence].length); classes.next();) {
      if (classes.segments().empty()) continue;
      const Progression& rows = classes.rows();
      WorkItem item = item_of(sequence, classes.segments());
      item.carry = pattern.carried_rows;
      carried.push_back({{to_span(rows), 0, item.carry}, classes.begin(), classes.end()});
      for (const CostedItem& tile : tiles_of(item, rows, classes.segments())) {
        pattern.partial_items.push_back(tile);
        pattern.partial_items.back().item.carry = pattern.carried_rows;
        pattern.carried_rows += tile.item.rows.count;
      }
    }
    return carried;
  }

  void add_final_items(HeadPattern& pattern, std::size_t sequence, std::span<const BranchSegments> group,
                       const std::vector<std::vector<CarriedClass>>& carried) {
    const std::int64_t length = plan_.sequences[sequence].length;
    std::vector<std::size_t> next(carried.size(), 0);  // of each group, the first that does not lie behind
    for (RowClassWalk classes(group, length); classes.next();) {
      WorkItem item = item_of(sequence, classes.segments());
      item.state_begin = position_of(states_.size());
      for (std::size_t i = 0; i < carried.size(); ++i) {
        while (next[i] < carried[i].size() && carried[i][next[i]].end <= classes.begin()) ++next[i];
        for (std::size_t j = next[i]; j < carried[i].size() && carried[i][j].begin < classes.end(); ++j) {
          if (may_share(classes.rows(), carried[i][j].states.rows)) states_.push_back(carried[i][j].states);
        }
      }
      item.state_end = position_of(states_.size());
      append(tiles_of(item, classes.rows(), classes.segments()), pattern.final_items);
    }
    append(tiles_of(item_of(sequence, {}), {length, 1, plan_.shape.tokens - length}, {}),
           pattern.final_items);
  }

  WorkItem item_of(std::size_t sequence, std::span<const Segment* const> segments) {
    WorkItem item{};
    item.rows = {0, 1, 0};
    item.length = static_cast<std::int32_t>(plan_.sequences[sequence].length);
    item.span_begin = position_of(spans_.size());
    item.list = item.block = -1;
    for (const Segment* segment : segments) {
      item.zero_keys += segment->zero_keys;
      if (segment->block_size > 0) {
        item.list = static_cast<std::int32_t>(sequence);
        item.block = static_cast<std::int32_t>(segment->queries.first / segment->block_size);
      } else if (segment->kept.count > 0) {
        spans_.push_back(to_span(segment->kept));
      }
    }
    item.span_end = position_of(spans_.size());
    return item;
  }

  /// A position in a list of the work list.
  static std::int32_t position_of(std::size_t position) {
    constexpr std::int32_t most = (std::numeric_limits<std::int32_t>::max)();
    if (position > static_cast<std::size_t>(most)) {
      throw_invalid("work list", "more than 2147483647 items or runs of keys",
                    "use longer segments or blocks, or a smaller batch");
    }
    return static_cast<std::int32_t>(position);
  }

  /// The rows of a class cut into items.
  std::vector<CostedItem> tiles_of(WorkItem item, const Progression& rows,
                                   std::span<const Segment* const> segments) const {
    std::vector<CostedItem> tiles;
    const bool is_empty = segments.empty() && item.state_begin == item.state_end;
    const std::int64_t most = is_empty ? sizes_.empty_rows : sizes_.query_rows;
    for (std::int64_t begin = 0; begin < rows.count; begin += most) {
      const Progression tile = rows.sub(begin, (std::min)(begin + most, rows.count));
      item.rows = to_span(tile);
      tiles.push_back({item, key_tiles(segments, tile.last(), plan_.causal, sizes_)});
    }
    return tiles;
  }

  static void append(const std::vector<CostedItem>& from, std::vector<CostedItem>& to) {
    to.insert(to.end(), from.begin(), from.end());
  }

  /// Whether a class may have rows among those of a carried state; the kernel looks at each.
  static bool may_share(const Progression& rows, const RowSpan& carried) {
    return carried.first <= rows.last() && rows.first <= carried.last() &&
           (rows.first - carried.first) % std::gcd(rows.stride, std::int64_t{carried.stride}) == 0;
  }

  static RowSpan to_span(const Progression& rows) {
    return {static_cast<std::int32_t>(rows.first),
            rows.count > 1 ? static_cast<std::int32_t>(rows.stride) : std::int32_t{1},
            static_cast<std::int32_t>(rows.count)};
  }

  /// Long items first, so that none is left when the others have ended; otherwise by place, for the sake of
  /// caches. Those without keys, which only write, fill what the last long ones leave idle.
  static void order(std::vector<CostedItem>& items) {
    std::stable_sort(items.begin(), items.end(),
                     [](const CostedItem& a, const CostedItem& b) { return a.cost > b.cost; });
  }

  const AttentionPlan& plan_;
  const WorkSizes& sizes_;
  std::vector<RowSpan> spans_;
  std::vector<StateSpan> states_;
  std::vector<CostedItem> partial_, final_;
  std::int64_t carried_rows_ = 0;
};

/// The work list of a call. Throws as check_work_shape does.
inline WorkList make_work_list(const AttentionPlan& plan, const WorkSizes& sizes = {}) {
  check_work_shape(plan.shape);
  return WorkListMaker(plan, sizes).make();
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
