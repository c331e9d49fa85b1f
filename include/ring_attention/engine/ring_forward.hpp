// A ring member's forward pass: its own queries, its own keys, then those of its neighbours, and around.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <ring_attention/engine/exchange.hpp>
#include <ring_attention/engine/forward.hpp>
#include <ring_attention/engine/shards.hpp>
#include <ring_attention/engine/whole.hpp>
#include <ring_attention/engine/workspace.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/ring/communicator.hpp>
#include <ring_attention/ring/messages.hpp>
#include <span>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Where a member stands: the plan of the whole call, and who owns what.
struct RingPlace {
  const AttentionPlan* plan;
  ShardLayout layout;
  // The member's tensors hold the whole sequence, as those of TrueRingDilatedAttention do.
  bool whole_tensors;
  int threads;

  detail::MemberTokens tokens(std::int64_t size, std::int64_t member) const {
    return detail::member_tokens(plan->shape.tokens, size, layout, member, whole_tensors);
  }
};

/// The elements that a message holds.
template <class T>
T* elements(std::span<std::byte> bytes) {
  return reinterpret_cast<T*>(bytes.data());
}
template <class T>
const T* elements(std::span<const std::byte> bytes) {
  return reinterpret_cast<const T*>(bytes.data());
}

/// How far before it the member is whose keys a member meets at a step, and how far after it the one that
/// meets its own: 0, 1, P - 1, 2, P - 2, ... Near members share the most segments; were the ring walked in
/// one direction, the ends of a segment over some of the members would wait for one another in turn.
inline int distance_of_step(int step, int size) { return step % 2 != 0 ? (step + 1) / 2 : size - step / 2; }

/// The member `steps` after `rank`, or before it where negative.
inline int member_after(int rank, int steps, int size) { return (rank + steps + size) % size; }

/// How many steps ahead a member sends its keys. Where segments span some of the shards, members have nothing
/// to compute at different steps; with one step of look-ahead those that were ahead waited for the others'
/// next messages (8 members, segments of 4 shards: a quarter of the time). tests/ring/step_order_test.cpp
/// tells who still waits: members of segments that span more shards than that, but not all.
inline constexpr int look_ahead = 2;
/// In backward a member needs gradients of its keys from those that it sends them to, step by step, which
/// keeps members together: to send further ahead would cost memory and save no time.
inline constexpr int backward_look_ahead = 1;

/// The steps of a ring: a member receives from one that is as far before it as the one is after it that it
/// sends to. The messages of the next steps are under way while visit(step, in, message, out) computes the
/// present one; `in` tells the rows of the message, `out` those that this member sent. Returns the payload
/// sent, in bytes.
template <int ahead, class Scalar, class Communicator, class Visit>
std::uint64_t exchange_keys(const RingPlace& place, Communicator& communicator, int tag,
                            const TensorView<const Scalar>& k, const TensorView<const Scalar>& v,
                            const Visit& visit) {
  using Place = detail::message_place<Communicator>;
  struct Step {
    Transfer in, out;
    typename Place::Incoming received;
  };
  detail::messages_over<Communicator> messages(communicator);
  const int size = communicator.size();
  const int rank = communicator.rank();
  const std::int64_t head_dim = place.plan->shape.head_dim;
  const detail::MemberTokens mine = place.tokens(size, rank);
  std::uint64_t bytes = 0;
  std::array<Step, std::size_t{ahead} + 1> steps;  // one to compute with, and those that arrive
  const auto step_at = [&steps](int s) -> Step& { return steps[static_cast<std::size_t>(s) % steps.size()]; };
  // Those of the next steps, and two that slower members may still read. Places go to messages in turn, not
  // to steps: a step without a message leaves a slower member more time.
  std::array<typename Place::Outgoing, std::size_t{ahead} + 2> leaving;
  std::size_t sent = 0;
  const auto start = [&](int s) {
    Step& step = step_at(s);
    const int from = member_after(rank, -distance_of_step(s, size), size);
    const int to = member_after(rank, distance_of_step(s, size), size);
    step.in = Transfer(*place.plan, place.tokens(size, from), mine);
    step.out = Transfer(*place.plan, mine, place.tokens(size, to));
    if (step.in.rows() > 0) {
      messages.expect(step.received, from, tag, KeyMessage<Scalar>::bytes(step.in, head_dim));
    }
    if (step.out.rows() > 0) {
      typename Place::Outgoing& message = leaving[sent++ % leaving.size()];
      messages.prepare(message, to, tag, KeyMessage<Scalar>::bytes(step.out, head_dim));
      KeyMessage<Scalar>::pack(step.out, k, v, elements<Scalar>(message.bytes()));
      messages.send(message);
      bytes += message.bytes().size();
    }
  };
  for (int s = 1; s < size && s <= ahead; ++s) start(s);
  detail::tell_step(communicator, 0, size);
  visit(0, Transfer(), KeyMessage<Scalar>(), Transfer());
  for (int s = 1; s < size; ++s) {
    Step& step = step_at(s);
    messages.wait(step.received);
    if (s + ahead < size) start(s + ahead);
    detail::tell_step(communicator, s, size);
    visit(s, step.in, KeyMessage<Scalar>{elements<Scalar>(step.received.bytes())}, step.out);
    messages.release(step.received);
  }
  for (auto& message : leaving) messages.wait(message);
  return bytes;
}

/// The member's own keys.
template <class Scalar>
struct OwnKeys {
  const ForwardTensors<Scalar>& tensors;
  const detail::MemberTokens& mine;

  LocalPieces<Scalar, MemberRuns> pieces(const ForwardTask& task, const detail::Meeting& meeting) const {
    return {tensors.k, tensors.v, meeting.segment, task.item, task.kv_head, MemberRuns(mine)};
  }
};

/// The keys of a message.
template <class Scalar>
struct ReceivedKeys {
  const Transfer& transfer;
  const KeyMessage<Scalar>& message;
  std::int64_t head_dim;

  class Pieces {
   public:
    Pieces(const ReceivedKeys& keys, const ForwardTask& task, const detail::Meeting& meeting)
        : keys_(keys),
          pieces_(keys.transfer, task.item, meeting.branch, task.kv_head, meeting.offset, meeting.segment) {}

    bool next(KeyPiece<Scalar>& piece) {
      TransferPiece at;
      if (!pieces_.next(at)) return false;
      piece = keys_.message.piece(keys_.transfer, at, keys_.head_dim);
      return true;
    }

   private:
    const ReceivedKeys& keys_;
    Transfer::Pieces pieces_;
  };
  Pieces pieces(const ForwardTask& task, const detail::Meeting& meeting) const {
    return {*this, task, meeting};
  }
};

/// Runs a member's forward pass; collective. Memory is O(n / P): states of its own rows, and a few messages.
template <class Scalar, class Communicator>
std::uint64_t forward_ring(const RingPlace& place, Communicator& communicator,
                           const ForwardTensors<Scalar>& tensors, const TileKernel<Scalar>& kernel) {
  using T = accumulator_t<Scalar>;
  using Workspace = ForwardWorkspace<Scalar>;
  const AttentionPlan& plan = *place.plan;
  const CallShape& shape = plan.shape;
  const detail::MemberTokens mine = place.tokens(communicator.size(), communicator.rank());
  const std::int64_t padded_dim = kernel.padded(shape.head_dim);
  const std::int64_t rows = mine.size();
  const ForwardSizes sizes = fast_forward_sizes<T>(
      plan, (std::max)({std::int64_t{1}, mine.runs[0].size(), mine.runs[1].size()}), place.threads);
  const ForwardTasks tasks(plan, sizes);
  const ForwardPass<Scalar> pass(plan, tensors, kernel);

  detail::Block state_block;
  RowStates<T> states;
  {
    const auto carve = [&](detail::Carver carver) {
      states.output = carver.take<T>(shape.batch * shape.heads * rows * padded_dim);
      states.maximum = carver.take<T>(shape.batch * shape.heads * rows);
      states.sum = carver.take<T>(shape.batch * shape.heads * rows);
      return carver.used();
    };
    carve(detail::Carver(state_block.reserve(carve(detail::Carver()))));
  }
  detail::Carver count;
  Workspace(count, kernel, sizes, shape.head_dim, false);
  const std::size_t bytes_per_thread = count.used();
  detail::Block workspace;
  std::byte* const memory = workspace.reserve(bytes_per_thread * static_cast<std::size_t>(place.threads));

  // Calls body(task, states of the task, workspace) for every task of the member's rows.
  const auto for_each_task = [&](const auto& body) {
    const std::int64_t first = tasks.count(mine.runs[0]);
    detail::parallel_for(
        first + tasks.count(mine.runs[1]), place.threads, [&](std::int64_t index, int worker) {
          detail::Carver carver(memory + bytes_per_thread * static_cast<std::size_t>(worker));
          Workspace work(carver, kernel, sizes, shape.head_dim, false);
          const detail::TokenRun& run = mine.runs[index < first ? 0 : 1];
          const ForwardTask task = tasks.task(run, index < first ? index : index - first);
          RowStates<T> task_states = states;
          const std::int64_t row =
              (task.item * shape.heads + task.head_begin) * rows + task.begin + run.number_shift;
          task_states.output += row * padded_dim;
          task_states.maximum += row;
          task_states.sum += row;
          task_states.head_stride = rows;
          task_states.first_head = task.head_begin;
          task_states.first_token = task.begin;
          body(task, task_states, work);
          if (worker == 0) detail::make_progress(communicator);  // the caller's own thread
        });
  };

  const std::uint64_t bytes = exchange_keys<look_ahead, Scalar>(
      place, communicator, 0, tensors.k, tensors.v,
      [&](int step, const Transfer& transfer, const KeyMessage<Scalar>& message, const Transfer&) {
        if (step == 0) {
          for_each_task([&](const ForwardTask& task, const RowStates<T>& task_states, Workspace& work) {
            pass.reset(task, task_states);
            pass.absorb_zero_keys(task, task_states, work);
            pass.attend(task, task_states, work, OwnKeys<Scalar>{tensors, mine});
          });
        } else if (transfer.rows() > 0) {
          for_each_task([&](const ForwardTask& task, const RowStates<T>& task_states, Workspace& work) {
            pass.attend(task, task_states, work, ReceivedKeys<Scalar>{transfer, message, shape.head_dim});
          });
        }
      });
  for_each_task([&](const ForwardTask& task, const RowStates<T>& task_states, Workspace&) {
    pass.finish(task, task_states);
  });
  return bytes;
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
