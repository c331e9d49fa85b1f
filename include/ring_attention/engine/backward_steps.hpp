// The steps of backward around its inner pass: row sums, mixing statistics, and how the work is cut into
// units.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <ring_attention/engine/backward.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/parallel.hpp>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Which gradients a pass computes; decides along which side units may be cut.
enum class BackwardSide { both, queries, keys };

/// Work of branch `branch` on tokens [0, length) of every item, as units that share no gradient row.
inline std::vector<BackwardUnit> backward_units(const AttentionPlan& plan, std::size_t branch_index,
                                                BackwardSide side, int threads) {
  constexpr std::int64_t least_tokens = 2048;
  std::vector<BackwardUnit> units;
  std::vector<std::int64_t> heads(static_cast<std::size_t>(plan.shape.heads / plan.shape.kv_heads));
  const auto group = static_cast<std::int64_t>(heads.size());
  for (std::int64_t item = 0; item < plan.shape.batch; ++item) {
    const SequencePlan& sequence = plan.sequence_of(item);
    if (branch_index >= sequence.branches.size()) continue;
    const BranchPlan& branch = sequence.branches[branch_index];
    const std::int64_t w = branch.segment_length;
    const std::int64_t enough =
        detail::ceil_div(sequence.length * plan.shape.batch * plan.shape.kv_heads, std::int64_t{4} * threads);
    const std::int64_t whole_segments = w * std::max<std::int64_t>(1, (std::min)(least_tokens, enough) / w);
    const std::int64_t block =
        side == BackwardSide::both
            ? whole_segments
            : (std::max)({std::int64_t{64}, detail::ceil_div(sequence.length, std::int64_t{4} * threads),
                          (std::min)(least_tokens, 64 * (std::min)(branch.dilation_rate, least_tokens))});
    for (std::int64_t kv_head = 0; kv_head < plan.shape.kv_heads; ++kv_head) {
      for (std::size_t offset = 0; offset < branch.offsets.size(); ++offset) {
        if (detail::heads_with_offset(branch, offset, kv_head * group, (kv_head + 1) * group, heads.data()) ==
            0) {
          continue;
        }
        for (std::int64_t begin = 0; begin < sequence.length; begin += block) {
          const std::int64_t end = (std::min)(begin + block, sequence.length);
          BackwardUnit unit{item, kv_head, branch_index, offset, begin, end, begin, end};
          if (side == BackwardSide::queries) unit.key_begin = 0, unit.key_end = sequence.length;
          if (side == BackwardSide::keys) {
            unit.query_begin = begin / w * w;
            unit.query_end = (std::min)(sequence.length, detail::ceil_div(end, w) * w);
          }
          units.push_back(unit);
        }
      }
    }
  }
  return units;
}

/// Into how many parts to cut queries and keys of units that have both gradients, so that all threads find
/// work.
inline std::int64_t parts_of_units(const AttentionPlan& plan, const std::vector<BackwardUnit>& units,
                                   int threads) {
  if (threads == 1 || units.empty()) return 1;
  std::int64_t rows = 0;  // of the longest unit
  for (const BackwardUnit& unit : units) {
    const BranchPlan& branch = plan.sequence_of(unit.item).branches[unit.branch];
    rows = (std::max)(rows, (unit.key_end - unit.key_begin) / branch.dilation_rate);
  }
  struct Aim {
    std::int64_t pieces_per_thread, least_rows;
  };
  const auto count = static_cast<std::int64_t>(units.size());
  std::int64_t parts = 1;
  // Long parts load and pack less; short ones are better than threads that wait.
  for (const Aim& aim : {Aim{8, 512}, Aim{2, 256}, Aim{1, 64}}) {
    while (count * parts < aim.pieces_per_thread * threads && rows >= 2 * parts * aim.least_rows) parts *= 2;
  }
  return parts;
}

/// The right to add to a part of the gradients: parts are handed on in the order of the rounds.
class Turn {
 public:
  Turn(std::atomic<int>& rounds_done, int round) : rounds_done_(rounds_done) {
    detail::look_out_for([&] { return rounds_done == round; });
    for (int done = rounds_done; done != round; done = rounds_done) rounds_done.wait(done);
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() {
    ++rounds_done_;
    rounds_done_.notify_all();
  }

 private:
  std::atomic<int>& rounds_done_;
};

/// Runs body(unit, worker) for units that share no gradient row, each cut along queries and keys into
/// `parts` x `parts` pieces. In each of `parts` rounds every part of the queries meets another part of the
/// keys, so that the pieces of a round share no row either; rows that several rounds add to are summed up in
/// their order, whatever the threads do. A piece waits only for pieces that were handed out before it.
template <class Body>
void run_in_turns(const std::vector<BackwardUnit>& units, std::int64_t parts, int threads, const Body& body) {
  const std::int64_t per_round = static_cast<std::int64_t>(units.size()) * parts;
  std::vector<std::atomic<int>> query_turns(static_cast<std::size_t>(per_round));
  std::vector<std::atomic<int>> key_turns(static_cast<std::size_t>(per_round));
  detail::parallel_for(per_round * parts, threads, [&](std::int64_t index, int worker) {
    const std::int64_t round = index / per_round;
    const std::int64_t first = index % per_round / parts * parts;
    // From the last to the first: the piece that waits for two others of the round before is then handed out
    // after many that need not wait for them.
    const std::int64_t key_part = parts - 1 - index % parts;
    // Where causal leaves out pairs, all rounds are left about as many.
    const std::int64_t query_part = (round - key_part + parts) % parts;
    const BackwardUnit& whole = units[static_cast<std::size_t>(first / parts)];
    BackwardUnit piece = whole;
    const auto cut = [parts](std::int64_t begin, std::int64_t end, std::int64_t part) {
      return begin + (end - begin) * part / parts;
    };
    piece.query_begin = cut(whole.query_begin, whole.query_end, query_part);
    piece.query_end = cut(whole.query_begin, whole.query_end, query_part + 1);
    piece.key_begin = cut(whole.key_begin, whole.key_end, key_part);
    piece.key_end = cut(whole.key_begin, whole.key_end, key_part + 1);
    const Turn of_queries(query_turns[static_cast<std::size_t>(first + query_part)], static_cast<int>(round));
    const Turn of_keys(key_turns[static_cast<std::size_t>(first + key_part)], static_cast<int>(round));
    body(piece, worker);
  });
}

/// Calls body(item, head, begin, end) for blocks of a run's rows of every head.
template <class Body>
void for_each_row_block(std::int64_t batch, std::int64_t heads, const detail::TokenRun& run, int threads,
                        const Body& body) {
  constexpr std::int64_t rows = 512;
  const std::int64_t blocks = detail::ceil_div(run.size(), rows);
  detail::parallel_for(batch * heads * blocks, threads, [&](std::int64_t index, int) {
    const std::int64_t head = index / blocks;
    const std::int64_t begin = run.begin + index % blocks * rows;
    body(head / heads, head % heads, begin, (std::min)(begin + rows, run.end));
  });
}

/// delta = sum_d dO O - d(lse) for every local row with keys; rows without keys or past the item's length: 0.
template <class Scalar>
void row_deltas(const AttentionPlan& plan, const TileKernel<Scalar>& kernel, const detail::TokenRun& run,
                const BackwardQueries<Scalar>& queries, const TensorView<const Scalar>& out,
                const TensorView<const accumulator_t<Scalar>>& grad_lse,
                const RowNumbers<accumulator_t<Scalar>>& delta, int threads) {
  using T = accumulator_t<Scalar>;
  const auto compute = [&](std::int64_t item, std::int64_t head, std::int64_t begin, std::int64_t end) {
    const std::int64_t valid = (std::min)(end, plan.sequence_of(item).length);
    for (std::int64_t token = begin; token < end; ++token) {
      const std::int64_t row = token + run.row_shift;
      T sum{0};
      if (token < valid && *queries.lse.row(item, head, row) != -std::numeric_limits<T>::infinity()) {
        const Scalar* a = queries.grad_out.row(item, row, head);
        const Scalar* b = out.row(item, row, head);
        // Summed as dO.v is, from which it is taken: rows with one dominant key cancel best so.
        sum = kernel.dot(a, b, plan.shape.head_dim);
        if (grad_lse.data() != nullptr) sum -= *grad_lse.row(item, head, row);
      }
      *delta.row(0, item, head, token + run.number_shift) = sum;
    }
  };
  for_each_row_block(plan.shape.batch, plan.shape.heads, run, threads, compute);
}

/// Sets a branch's sums of probabilities, which are 0, to what its zero keys contribute, z * exp(0 - lse).
template <class Scalar>
void seed_mix_statistics(const AttentionPlan& plan, std::size_t branch_index, const detail::TokenRun& run,
                         const BackwardQueries<Scalar>& queries,
                         const RowNumbers<accumulator_t<Scalar>>& probability) {
  using T = accumulator_t<Scalar>;
  if (!plan.zero_keys) return;
  std::vector<std::int64_t> heads(static_cast<std::size_t>(plan.shape.heads));
  for (std::int64_t item = 0; item < plan.shape.batch; ++item) {
    detail::MeetingWalk meetings(plan, item, 0, plan.shape.heads, run.begin, run.end, heads.data());
    while (meetings.next()) {
      const detail::Segment& segment = meetings->segment;
      if (meetings->branch != branch_index || segment.zero_keys == 0) continue;
      for (std::int64_t i = 0; i < meetings->head_count; ++i) {
        for (std::int64_t q = 0; q < segment.queries.count; ++q) {
          const std::int64_t token = segment.queries[q];
          *probability.row(branch_index, item, meetings->heads[i], token + run.number_shift) =
              static_cast<T>(segment.zero_keys) *
              std::exp(-*queries.lse.row(item, meetings->heads[i], token + run.row_shift));
        }
      }
    }
  }
}

/// The same for all branches.
template <class Scalar>
void seed_mix_statistics(const AttentionPlan& plan, const detail::TokenRun& run,
                         const BackwardQueries<Scalar>& queries,
                         const RowNumbers<accumulator_t<Scalar>>& probability) {
  for (std::size_t branch = 0; branch < plan.branch_count(); ++branch) {
    seed_mix_statistics(plan, branch, run, queries, probability);
  }
}

/// Turns a branch's statistics into its delta: sum(P dP) / sum(P) is sum_d dO O of the branch's own output.
/// The gradient of the log-sum-exp is taken off as in row_deltas. `delta` may be `weighted`.
template <class T>
void branch_deltas(const AttentionPlan& plan, std::size_t branch, const detail::TokenRun& run,
                   const RowNumbers<T>& probability, const RowNumbers<T>& weighted,
                   const TensorView<const T>& grad_lse, const RowNumbers<T>& delta, int threads) {
  const auto divide = [&](std::int64_t item, std::int64_t head, std::int64_t begin, std::int64_t end) {
    for (std::int64_t token = begin; token < end; ++token) {
      const std::int64_t number = token + run.number_shift;
      const T sum = *probability.row(branch, item, head, number);
      T value = sum != T{0} ? *weighted.row(branch, item, head, number) / sum : T{0};
      if (grad_lse.data() != nullptr) value -= *grad_lse.row(item, head, token + run.row_shift);
      *delta.row(branch, item, head, number) = value;
    }
  };
  for_each_row_block(plan.shape.batch, plan.shape.heads, run, threads, divide);
}

/// The same for all branches.
template <class T>
void branch_deltas(const AttentionPlan& plan, const detail::TokenRun& run, const RowNumbers<T>& probability,
                   const RowNumbers<T>& weighted, const TensorView<const T>& grad_lse,
                   const RowNumbers<T>& delta, int threads) {
  for (std::size_t branch = 0; branch < plan.branch_count(); ++branch) {
    branch_deltas(plan, branch, run, probability, weighted, grad_lse, delta, threads);
  }
}

/// Zeros in every row of a tensor, on all threads.
template <class Scalar>
void clear_rows(const TensorView<Scalar>& view, int threads) {
  const auto [batch, tokens, heads, head_dim] = view.shape();
  const auto clear = [&view, head_dim = head_dim](std::int64_t item, std::int64_t head, std::int64_t begin,
                                                  std::int64_t end) {
    for (std::int64_t token = begin; token < end; ++token) {
      std::fill_n(view.row(item, token, head), head_dim, Scalar(0));
    }
  };
  for_each_row_block(batch, heads, {0, tokens, 0, 0}, threads, clear);
}

/// Rounds the accumulated gradients of a run to the scalar type. Row 0 of `from` has the number
/// `first_number`.
template <class Scalar, class T>
void round_gradients(const TileKernel<Scalar>& kernel, const TensorView<const T>& from,
                     std::int64_t first_number, const detail::TokenRun& run, const TensorView<Scalar>& to,
                     int threads) {
  const auto [batch, rows, heads, head_dim] = from.shape();
  const auto round = [&, count = head_dim](std::int64_t item, std::int64_t head, std::int64_t begin,
                                           std::int64_t end) {
    for (std::int64_t token = begin; token < end; ++token) {
      kernel.round_row(from.row(item, token + run.number_shift - first_number, head), T{1}, count,
                       to.row(item, token + run.row_shift, head));
    }
  };
  for_each_row_block(batch, heads, run, threads, round);
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
