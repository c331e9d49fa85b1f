// The CPU backend's backward pass over the queries that one process or ring member holds.
//
// Within a branch, a key row belongs to one offset class and segment, and so does a query row of a head. A
// unit (item, key/value head, branch, offset class, whole segments) therefore shares no gradient row with
// another unit of its branch: units of a branch run in parallel without atomics, branches one after the
// other, and the result does not depend on the order. Where units are too few for the threads, gradients of
// queries and of keys are computed in two passes, each of which may cut its own side of a segment.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <ring_attention/engine/forward.hpp>
#include <ring_attention/engine/plan.hpp>
#include <ring_attention/engine/query_tiles.hpp>
#include <ring_attention/engine/shards.hpp>
#include <ring_attention/engine/walk.hpp>
#include <ring_attention/engine/workspace.hpp>
#include <ring_attention/kernel/portable_backward.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// What a member's queries bring to backward.
template <class Scalar>
struct BackwardQueries {
  TensorView<const Scalar> q, grad_out;
  TensorView<const accumulator_t<Scalar>> lse;
};

/// Keys, values and the rows that their gradients are added to.
template <class Scalar>
struct GradientPiece {
  KeyPiece<Scalar> piece;
  Rows<accumulator_t<Scalar>> grad_keys, grad_values;
};

/// One number per local query row and head, [item][head][row], for one branch or for all.
template <class T>
struct RowNumbers {
  T* data = nullptr;
  std::int64_t heads = 0;
  std::int64_t rows = 0;
  std::int64_t branch_stride = 0;  // 0: the branches share their numbers

  T* row(std::size_t branch, std::int64_t item, std::int64_t head, std::int64_t row) const {
    return data + static_cast<std::int64_t>(branch) * branch_stride + (item * heads + head) * rows + row;
  }
};

/// Gradients to compute, and where they go. What is null or false is left out.
template <class T>
struct BackwardTargets {
  TensorView<T> grad_q;                 // summed up
  std::int64_t grad_q_shift = 0;        // row of grad_q = number of the row + this
  bool grad_keys = false;               // into the pieces' rows
  RowNumbers<T> probability, weighted;  // per branch: sums of P and of P * dP
};

struct BackwardUnit {
  std::int64_t item, kv_head;
  std::size_t branch, offset;
  std::int64_t query_begin, query_end;  // tokens
  std::int64_t key_begin, key_end;
};

struct BackwardSizes {
  std::int64_t group_entries = 384;  // query rows loaded together
  std::int64_t run_keys = 256;       // keys packed together
};

template <class Scalar>
struct BackwardWorkspace {
  using T = accumulator_t<Scalar>;
  using Kernel = PortableBackward<T>;
  static constexpr std::int64_t most = PortableKernel<T>::max_queries;
  static constexpr std::int64_t rows_per_tile = PortableKernel<T>::padded(most);

  BackwardWorkspace(detail::Carver& carver, const BackwardSizes& sizes, const CallShape& shape) {
    const std::int64_t lanes = detail::ceil_div(sizes.group_entries, most) * most;
    const std::int64_t dims = Kernel::row_dim(shape.head_dim);
    const std::int64_t keys = PortableKernel<T>::padded(sizes.run_keys);
    query = carver.take<T>(lanes * shape.head_dim);
    grad_out = carver.take<T>(lanes * shape.head_dim);
    query_rows = carver.take<T>(lanes * dims);
    grad_out_rows = carver.take<T>(lanes * dims);
    // The kernel writes rows of a tile in whole panels.
    grad_query = carver.take<T>(lanes / most * rows_per_tile * dims);
    lse = carver.take<T>(lanes);
    delta = carver.take<T>(lanes);
    probability = carver.take<T>(lanes);
    weighted = carver.take<T>(lanes);
    token = carver.take<std::int64_t>(lanes);
    packed_keys = carver.take<T>(keys * shape.head_dim);
    packed_values = carver.take<T>(keys * shape.head_dim);
    key_rows = carver.take<T>(keys * dims);
    grad_keys = carver.take<T>(keys * dims);
    grad_values = carver.take<T>(keys * dims);
    scratch = carver.take<T>(Kernel::scratch_elements);
    limits = carver.take<LaneIndex<T>>(most);
    heads = carver.take<std::int64_t>(shape.heads / shape.kv_heads);
  }

  T *query, *grad_out, *query_rows, *grad_out_rows, *grad_query, *lse, *delta, *probability, *weighted;
  std::int64_t* token;
  T *packed_keys, *packed_values, *key_rows, *grad_keys, *grad_values, *scratch;
  LaneIndex<T>* limits;
  std::int64_t* heads;
};

template <class Scalar>
class BackwardPass {
  using T = accumulator_t<Scalar>;
  using Kernel = PortableBackward<T>;
  using Tile = PortableKernel<T>;
  using Workspace = BackwardWorkspace<Scalar>;
  static constexpr std::int64_t most = Tile::max_queries;

 public:
  BackwardPass(const AttentionPlan& plan, const BackwardQueries<Scalar>& queries, const RowNumbers<T>& delta,
               const BackwardSizes& sizes)
      : plan_(plan),
        queries_(queries),
        delta_(delta),
        sizes_(sizes),
        head_dim_(plan.shape.head_dim),
        dims_(Kernel::row_dim(plan.shape.head_dim)),
        scale_(static_cast<T>(plan.scale)),
        query_scale_(static_cast<T>(plan.scale * std::numbers::log2e)) {}

  /// Runs a unit over the queries of a member's run. find(branch, offset, segment, unit, visit) calls
  /// visit(GradientPiece) for each piece of the segment's kept rows that is at hand.
  template <class FindPieces>
  void run(const BackwardUnit& unit, const detail::TokenRun& run, const BackwardTargets<T>& targets,
           Workspace& work, const FindPieces& find) const {
    const SequencePlan& sequence = plan_.sequence_of(unit.item);
    const BranchPlan& branch = sequence.branches[unit.branch];
    const std::int64_t group = plan_.shape.heads / plan_.shape.kv_heads;
    const std::int64_t heads = detail::heads_with_offset(branch, unit.offset, unit.kv_head * group,
                                                         (unit.kv_head + 1) * group, work.heads);
    const std::int64_t begin = std::max(unit.query_begin, run.begin);
    const std::int64_t end = std::min(unit.query_end, run.end);
    if (heads == 0 || begin >= end) return;
    detail::for_each_segment(
        plan_, sequence.length, branch, branch.offsets[unit.offset], begin, end,
        [&](const detail::Segment& segment) {
          const QuerySet set{unit.item, work.heads, heads, segment.queries, run.row_shift, run.number_shift};
          find(unit.branch, unit.offset, segment, unit,
               [&](const GradientPiece<Scalar>& piece) { meet(unit, set, piece, targets, work); });
        });
  }

 private:
  void meet(const BackwardUnit& unit, const QuerySet& set, GradientPiece<Scalar> keys,
            const BackwardTargets<T>& targets, Workspace& work) const {
    detail::TokenList& tokens = keys.piece.tokens;
    if (plan_.causal) tokens = tokens.sub(0, tokens.count_until(set.tokens[set.tokens.count - 1]));
    if (tokens.count == 0) return;
    const std::int64_t group = detail::ceil_div(sizes_.group_entries, most) * most;
    for (std::int64_t first = 0; first < set.entries(); first += group) {
      const std::int64_t entries = std::min(group, set.entries() - first);
      load(unit, set, first, entries, targets, work);
      for (std::int64_t begin = 0; begin < tokens.count; begin += sizes_.run_keys) {
        meet_run(entries, keys, begin, std::min(begin + sizes_.run_keys, tokens.count), targets, work);
      }
      store(unit, set, first, entries, targets, work);
    }
  }

  GradientTile<T> tile(const Workspace& work, std::int64_t t, std::int64_t entries,
                       const BackwardTargets<T>& targets) const {
    const std::int64_t lane = t * most;
    const bool sums = targets.probability.data != nullptr;
    return {
        work.query + lane * head_dim_,
        work.grad_out + lane * head_dim_,
        work.query_rows + lane * dims_,
        work.grad_out_rows + lane * dims_,
        work.lse + lane,
        work.delta + lane,
        targets.grad_q.data() != nullptr ? work.grad_query + t * Workspace::rows_per_tile * dims_ : nullptr,
        sums ? work.probability + lane : nullptr,
        sums ? work.weighted + lane : nullptr,
        Tile::vectors_for(entries - lane)};
  }

  void load(const BackwardUnit& unit, const QuerySet& set, std::int64_t first, std::int64_t entries,
            const BackwardTargets<T>& targets, Workspace& work) const {
    const std::int64_t tiles = detail::ceil_div(entries, most);
    std::fill_n(work.grad_query, tiles * Workspace::rows_per_tile * dims_, T{0});
    std::fill_n(work.probability, tiles * most, T{0});
    std::fill_n(work.weighted, tiles * most, T{0});
    for (std::int64_t t = 0; t < tiles; ++t) {
      const GradientTile<T> to = tile(work, t, entries, targets);
      const std::int64_t width = to.vectors * Tile::lanes;
      for (std::int64_t lane = 0; lane < width; ++lane) {
        const std::int64_t local = t * most + lane;
        T* query_row = to.query_rows + lane * dims_;
        T* grad_row = to.grad_out_rows + lane * dims_;
        std::fill_n(query_row, dims_, T{0});
        std::fill_n(grad_row, dims_, T{0});
        work.token[local] = std::numeric_limits<std::int64_t>::max();
        to.lse[lane] = std::numeric_limits<T>::infinity();
        to.delta[lane] = T{0};
        if (local < entries) {
          const std::int64_t head = set.head(first + local);
          const std::int64_t token = set.token(first + local);
          const std::int64_t row = token + set.row_shift;
          work.token[local] = token;
          const T lse = *queries_.lse.row(set.item, head, row);
          // A row without keys has no gradient, whatever its dO holds.
          if (lse != -std::numeric_limits<T>::infinity()) {
            const Scalar* query = queries_.q.row(set.item, row, head);
            const Scalar* grad = queries_.grad_out.row(set.item, row, head);
            for (std::int64_t d = 0; d < head_dim_; ++d) query_row[d] = static_cast<T>(query[d]);
            for (std::int64_t d = 0; d < head_dim_; ++d) grad_row[d] = static_cast<T>(grad[d]);
            to.lse[lane] = lse * std::numbers::log2e_v<T>;
            to.delta[lane] = *delta_.row(unit.branch, set.item, head, token + set.number_shift);
          }
        }
        for (std::int64_t d = 0; d < head_dim_; ++d) to.query[d * width + lane] = query_row[d] * query_scale_;
        for (std::int64_t d = 0; d < head_dim_; ++d) to.grad_out[d * width + lane] = grad_row[d];
      }
    }
  }

  void meet_run(std::int64_t entries, const GradientPiece<Scalar>& keys, std::int64_t begin, std::int64_t end,
                const BackwardTargets<T>& targets, Workspace& work) const {
    const detail::TokenList tokens = keys.piece.tokens.sub(begin, end);
    const std::int64_t count = tokens.count;
    const std::int64_t padded = Tile::padded(count);
    Tile::pack_keys(keys.piece.keys.skip(begin), count, head_dim_, work.packed_keys);
    Tile::pack_keys(keys.piece.values.skip(begin), count, head_dim_, work.packed_values);
    const bool wants_query = targets.grad_q.data() != nullptr;
    if (wants_query) Kernel::pack_rows(keys.piece.keys.skip(begin), count, head_dim_, work.key_rows);
    if (targets.grad_keys) {
      std::fill_n(work.grad_keys, padded * dims_, T{0});
      std::fill_n(work.grad_values, padded * dims_, T{0});
    }
    const GradientKeys<T> packed{work.packed_keys,
                                 work.packed_values,
                                 work.key_rows,
                                 targets.grad_keys ? work.grad_keys : nullptr,
                                 targets.grad_keys ? work.grad_values : nullptr,
                                 count};
    for (std::int64_t t = 0; t < detail::ceil_div(entries, most); ++t) {
      const GradientTile<T> queries = tile(work, t, entries, targets);
      const LaneIndex<T>* limits = nullptr;
      if (plan_.causal) {
        const std::int64_t* lane_token = work.token + t * most;
        const std::int64_t filled = std::min(most, entries - t * most);
        const auto [least, greatest] = std::minmax_element(lane_token, lane_token + filled);
        if (tokens[0] > *greatest) continue;
        if (tokens[count - 1] > *least) {
          for (std::int64_t lane = 0; lane < queries.vectors * Tile::lanes; ++lane) {
            work.limits[lane] = static_cast<LaneIndex<T>>(tokens.count_until(lane_token[lane]));
          }
          limits = work.limits;
        }
      }
      Kernel::accumulate(packed, queries, limits, head_dim_, work.scratch);
    }
    if (targets.grad_keys) {
      const Rows<T> grad_keys = keys.grad_keys.skip(begin);
      const Rows<T> grad_values = keys.grad_values.skip(begin);
      for (std::int64_t i = 0; i < count; ++i) {
        add_row(grad_keys[i], work.grad_keys + i * dims_, scale_);
        add_row(grad_values[i], work.grad_values + i * dims_, T{1});
      }
    }
  }

  void store(const BackwardUnit& unit, const QuerySet& set, std::int64_t first, std::int64_t entries,
             const BackwardTargets<T>& targets, const Workspace& work) const {
    for (std::int64_t local = 0; local < entries; ++local) {
      const std::int64_t head = set.head(first + local);
      const std::int64_t row = set.token(first + local) + set.number_shift;
      if (targets.grad_q.data() != nullptr) {
        add_row(targets.grad_q.row(set.item, row + targets.grad_q_shift, head),
                work.grad_query + (local / most * Workspace::rows_per_tile + local % most) * dims_, scale_);
      }
      if (targets.probability.data != nullptr) {
        *targets.probability.row(unit.branch, set.item, head, row) += work.probability[local];
        *targets.weighted.row(unit.branch, set.item, head, row) += work.weighted[local];
      }
    }
  }

  void add_row(T* to, const T* from, T factor) const {
    for (std::int64_t d = 0; d < head_dim_; ++d) to[d] += factor * from[d];
  }

  const AttentionPlan& plan_;
  const BackwardQueries<Scalar>& queries_;
  RowNumbers<T> delta_;
  BackwardSizes sizes_;
  std::int64_t head_dim_, dims_;
  T scale_, query_scale_;
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
