// Which branches of a head one item runs through, by what that costs.
//
// Rows of several branches meet the same keys only in residue classes, which are as sparse as the sparsest
// branch, and between the borders of the shortest segments. Tiles of few rows, and under causal masking those
// whose rows lie far apart, process pairs that do not count. A group of its own spares the others that, but
// its states must be carried through memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ring_attention/cuda/row_classes.hpp>
#include <ring_attention/plan/meetings.hpp>
#include <ring_attention/plan/plan.hpp>
#include <span>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Extents of the tiles that a kernel computes, and what it spends beside them: in tiles, which are
/// query_rows x key_rows pairs of query and key.
struct WorkSizes {
  std::int64_t query_rows = 64;
  std::int64_t key_rows = 128;
  std::int64_t empty_rows = 2048;  ///< that items without keys write
  double item_cost = 1;            ///< to begin and end an item
  double carry_cost = 4;           ///< to write an item's states and read them again
  double launch_cost = 1200;       ///< of partial items as such: final ones wait for all of them
};

/// Number of keys of a segment below `limit`.
inline std::int64_t count_keys(const Segment& segment, std::int64_t limit) {
  std::int64_t count = 0;
  for (KeyRunWalk runs(segment, 0, limit); runs.next();) count += (*runs).count;
  return count;
}

/// Tiles that an item runs through whose last row is `last`.
inline std::int64_t key_tiles(std::span<const Segment* const> segments, std::int64_t last, bool causal,
                              const WorkSizes& sizes) {
  std::int64_t tiles = 0;
  for (const Segment* segment : segments) {
    tiles += ceil_div(count_keys(*segment, causal ? last + 1 : segment->end), sizes.key_rows);
  }
  return tiles;
}

/// What the rows [0, length) of one head cost where all of these branches form a group.
inline double group_cost(std::span<const BranchSegments> branches, std::int64_t length, bool causal,
                         bool partial, const WorkSizes& sizes) {
  double cost = 0;
  for (RowClassWalk classes(branches, length); classes.next();) {
    const Progression& rows = classes.rows();
    if (classes.segments().empty()) continue;
    const std::int64_t items = ceil_div(rows.count, sizes.query_rows);
    cost += static_cast<double>(items) * (sizes.item_cost + (partial ? sizes.carry_cost : 0));
    if (!causal) {
      cost += static_cast<double>(items * key_tiles(classes.segments(), 0, false, sizes));
      continue;
    }
    for (std::int64_t i = 0; i < items; ++i) {
      const std::int64_t end = (std::min)((i + 1) * sizes.query_rows, rows.count);
      cost += static_cast<double>(key_tiles(classes.segments(), rows[end - 1], true, sizes));
    }
  }
  return cost;
}

/// Where to divide the branches of a head, the densest first: positions at which groups end, the last one
/// the number of branches. Final items run the first group. `copies` is how many heads and batch items share
/// the launches.
inline std::vector<std::size_t> divide_branches(std::span<const BranchSegments> branches, std::int64_t length,
                                                bool causal, std::int64_t copies, const WorkSizes& sizes) {
  const std::size_t count = branches.size();
  // best[i]: the least cost of the first i branches, and where their last group begins.
  std::vector<double> best(count + 1, 0.0);
  std::vector<std::size_t> last_begin(count + 1, 0);
  const double launch_cost = sizes.launch_cost / static_cast<double>(copies);
  for (std::size_t end = 1; end <= count && count > 1; ++end) {
    best[end] = std::numeric_limits<double>::infinity();
    for (std::size_t begin = 0; begin < end; ++begin) {
      double cost =
          best[begin] + group_cost(branches.subspan(begin, end - begin), length, causal, begin > 0, sizes);
      // The first partial group pays for the launch.
      if (begin > 0 && last_begin[begin] == 0) cost += launch_cost;
      if (cost < best[end]) {
        best[end] = cost;
        last_begin[end] = begin;
      }
    }
  }
  std::vector<std::size_t> ends;
  for (std::size_t end = count; end > 0; end = last_begin[end]) ends.push_back(end);
  std::reverse(ends.begin(), ends.end());
  return ends;
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
