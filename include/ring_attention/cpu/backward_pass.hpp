// The CPU backend's backward pass over the queries that one process or ring member holds.
//
// Within a branch, a key row belongs to one offset class and segment, and so does a query row of a head. A
// unit (item, key/value head, branch, offset class, whole segments) therefore shares no gradient row with
// another unit of its branch: units of a branch run in parallel without atomics, branches one after the
// other, and the result does not depend on the order. Where whole tensors give too few units for the threads,
// units are cut along both sides, and their pieces take turns at the rows that they share; a ring member
// computes gradients of queries and of keys in two passes then, each of which cuts its own side of a segment.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/cpu/backward_units.hpp>
#include <ring_attention/cpu/gradient_tiles.hpp>
#include <ring_attention/cpu/query_tiles.hpp>
#include <ring_attention/plan/meetings.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/plan/shards.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Gradients to compute, and where they go. What is null or false is left out.
template <class T>
struct BackwardTargets {
  detail::MemberView<T> grad_q;         // summed up
  bool grad_keys = false;               // into the pieces' rows
  RowNumbers<T> probability, weighted;  // per branch: sums of P and of P * dP

  GradientsWanted wanted() const {
    return {static_cast<bool>(grad_q), grad_keys, probability.data != nullptr};
  }
};

template <class Scalar>
class BackwardPass {
  using T = accumulator_t<Scalar>;
  using Workspace = BackwardWorkspace<Scalar>;
  using Tiles = GradientTiles<Scalar>;

 public:
  BackwardPass(const AttentionPlan& plan, const BackwardKernel<Scalar>& kernel,
               const BackwardQueries<Scalar>& queries, const RowNumbers<T>& delta, const BackwardSizes& sizes)
      : plan_(plan), kernel_(kernel), tiles_(plan, kernel, queries, delta), sizes_(sizes) {}

  /// Runs a unit over the queries of a member's run and the keys that are at hand: keys.places(...) walks
  /// those of a meeting, keys.at(...) says where they lie, and gradients.at(...) where their gradients do.
  template <class Keys, class Gradients>
  void run(const BackwardUnit& unit, const detail::TokenRun& run, const BackwardTargets<T>& targets,
           Workspace& work, const Keys& keys, const Gradients& gradients) const {
    const SequencePlan& sequence = plan_.sequence_of(unit.item);
    const BranchPlan& branch = sequence.branches[unit.branch];
    const std::int64_t group = plan_.shape.heads / plan_.shape.kv_heads;
    detail::Meeting meeting{unit.branch, unit.offset, work.heads, 0, {}};
    meeting.head_count = detail::heads_with_offset(branch, unit.offset, unit.kv_head * group,
                                                   (unit.kv_head + 1) * group, work.heads);
    if (meeting.head_count == 0) return;
    detail::SegmentWalk segments(plan_, sequence, unit.branch, unit.offset,
                                 (std::max)(unit.query_begin, run.begin),
                                 (std::min)(unit.query_end, run.end));
    while (segments.next()) {
      meeting.segment = *segments;
      const QuerySet set{unit.item, work.heads, meeting.head_count, meeting.segment.queries};
      auto places = keys.places(unit.item, unit.kv_head, meeting, unit.key_begin, unit.key_end);
      for (detail::KeyPlace place; places.next(place);) {
        GradientPiece<Scalar> piece{piece_of<Scalar>(keys, place, unit.item, unit.kv_head), {}};
        if (targets.grad_keys) piece.gradients = gradients.at(place, unit.item, unit.kv_head);
        meet(unit, set, piece, targets, work);
      }
    }
  }

 private:
  void meet(const BackwardUnit& unit, const QuerySet& set, GradientPiece<Scalar> keys,
            const BackwardTargets<T>& targets, Workspace& work) const {
    Progression& tokens = keys.piece.tokens;
    if (plan_.causal) tokens = tokens.sub(0, tokens.count_below(set.tokens.last() + 1));
    if (tokens.count == 0) return;
    const std::int64_t group = detail::ceil_div(sizes_.group_entries, tiles_.most) * tiles_.most;
    for (std::int64_t first = 0; first < set.entries(); first += group) {
      const LoadedQueries loaded{0, (std::min)(group, set.entries() - first)};
      tiles_.load(set, first, loaded, unit.branch, work);
      for (std::int64_t begin = 0; begin < tokens.count; begin += sizes_.run_keys) {
        meet_run(loaded, keys, begin, (std::min)(begin + sizes_.run_keys, tokens.count), targets, work);
      }
      store(unit, set, first, loaded, targets, work);
    }
  }

  void meet_run(const LoadedQueries& loaded, const GradientPiece<Scalar>& keys, std::int64_t begin,
                std::int64_t end, const BackwardTargets<T>& targets, Workspace& work) const {
    const KeyPiece<Scalar> run = keys.piece.sub(begin, end);
    tiles_.pack(run, run.tokens.count, 0, targets.wanted(), work);
    tiles_.accumulate(loaded, run.tokens, 0, targets.wanted(), work);
    if (!targets.grad_keys) return;
    const Rows<T> grad_keys = keys.gradients.keys.skip(begin);
    const Rows<T> grad_values = keys.gradients.values.skip(begin);
    for (std::int64_t i = 0; i < run.tokens.count; ++i) {
      kernel_.add_row(tiles_.grad_key(i, work), tiles_.scale(), plan_.shape.head_dim, grad_keys[i]);
      kernel_.add_row(tiles_.grad_value(i, work), T{1}, plan_.shape.head_dim, grad_values[i]);
    }
  }

  void store(const BackwardUnit& unit, const QuerySet& set, std::int64_t first, const LoadedQueries& loaded,
             const BackwardTargets<T>& targets, const Workspace& work) const {
    for (std::int64_t local = 0; local < loaded.entries; ++local) {
      const std::int64_t head = set.head(first + local);
      const std::int64_t token = set.token(first + local);
      if (targets.grad_q) {
        kernel_.add_row(tiles_.grad_query(loaded, local, work), tiles_.scale(), plan_.shape.head_dim,
                        targets.grad_q.row(set.item, token, head));
      }
      if (targets.probability.data != nullptr) {
        targets.probability.at(unit.branch, set.item, head, token) += work.probability[local];
        targets.weighted.at(unit.branch, set.item, head, token) += work.weighted[local];
      }
    }
  }

  const AttentionPlan& plan_;
  const BackwardKernel<Scalar>& kernel_;
  GradientTiles<Scalar> tiles_;
  BackwardSizes sizes_;
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
