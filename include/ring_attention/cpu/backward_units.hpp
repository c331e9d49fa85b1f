// How backward is divided over threads: units that share no gradient row, and turns at the rows that they do
// share.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <ring_attention/parallel.hpp>
#include <ring_attention/plan/meetings.hpp>
#include <ring_attention/plan/plan.hpp>
#include <span>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Queries and keys of one residue class of a branch, for the heads that share a key/value head.
struct BackwardUnit {
  std::int64_t item, kv_head;
  std::size_t branch, offset;
  std::int64_t query_begin, query_end;  // tokens
  std::int64_t key_begin, key_end;
};

/// Which gradients a pass computes; decides along which side units may be cut.
enum class BackwardSide { both, queries, keys };

/// Lists the work of a branch on tokens [0, length) of every item, as units that share no gradient row;
/// returns how many there are. Without memory to write to it only counts.
inline std::size_t list_units(const AttentionPlan& plan, std::size_t branch_index, BackwardSide side,
                              int threads, BackwardUnit* units) {
  constexpr std::int64_t least_tokens = 2048;
  const std::int64_t group = plan.shape.heads / plan.shape.kv_heads;
  std::size_t count = 0;
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
        if (detail::heads_with_offset(branch, offset, kv_head * group, (kv_head + 1) * group, nullptr) == 0) {
          continue;
        }
        if (units == nullptr) {
          count += static_cast<std::size_t>(detail::ceil_div(sequence.length, block));
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
          units[count++] = unit;
        }
      }
    }
  }
  return count;
}

/// Into how many parts to cut queries and keys of units that have both gradients, so that all threads find
/// work.
inline std::int64_t parts_of_units(const AttentionPlan& plan, std::span<const BackwardUnit> units,
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

/// How many turn counters run_in_turns needs for `units` units and as many parts as parts_of_units gives.
inline std::int64_t turns_of_units(std::int64_t units, int threads) {
  constexpr std::int64_t most_per_thread = 16;  // twice the pieces that parts_of_units aims at
  return 2 * (std::max)(units, threads == 1 ? std::int64_t{0} : most_per_thread * threads);
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
/// `turns` is memory for 2 * units * parts counters.
template <class Body>
void run_in_turns(std::span<const BackwardUnit> units, std::int64_t parts, std::atomic<int>* turns,
                  int threads, const Body& body) {
  const std::int64_t per_round = static_cast<std::int64_t>(units.size()) * parts;
  std::uninitialized_value_construct_n(turns, 2 * per_round);
  std::atomic<int>* const query_turns = turns;
  std::atomic<int>* const key_turns = turns + per_round;
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
    const Turn of_queries(query_turns[first + query_part], static_cast<int>(round));
    const Turn of_keys(key_turns[first + key_part], static_cast<int>(round));
    body(piece, worker);
  });
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
