// A ring member's forward pass: its own queries, its own keys, then those of its neighbours, and around.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <ring_attention/cpu/forward_pass.hpp>
#include <ring_attention/cpu/forward_tasks.hpp>
#include <ring_attention/cpu/key_exchange.hpp>
#include <ring_attention/cpu/workspace.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/plan/shards.hpp>
#include <ring_attention/plan/transfer.hpp>
#include <ring_attention/ring/communicator.hpp>
#include <ring_attention/ring/messages.hpp>
#include <span>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// The member's own keys.
template <class Scalar>
struct OwnKeys {
  const detail::ForwardTensors<Scalar>& tensors;
  const detail::MemberTokens& mine;

  LocalPieces<Scalar, MemberRuns> pieces(const ForwardTask& task, const detail::Meeting& meeting) const {
    return {tensors.k, tensors.v, meeting.segment, task.item, task.kv_head, MemberRuns(mine)};
  }
};

/// The keys of a message.
template <class Scalar>
struct ReceivedKeys {
  const detail::Transfer& transfer;
  const KeyMessage<Scalar>& message;
  std::int64_t head_dim;

  class Pieces {
   public:
    Pieces(const ReceivedKeys& keys, const ForwardTask& task, const detail::Meeting& meeting)
        : keys_(keys),
          pieces_(keys.transfer, task.item, meeting.branch, task.kv_head, meeting.offset, meeting.segment) {}

    bool next(KeyPiece<Scalar>& piece) {
      detail::TransferPiece at;
      if (!pieces_.next(at)) return false;
      piece = keys_.message.piece(keys_.transfer, at, keys_.head_dim);
      return true;
    }

   private:
    const ReceivedKeys& keys_;
    detail::Transfer::Pieces pieces_;
  };
  Pieces pieces(const ForwardTask& task, const detail::Meeting& meeting) const {
    return {*this, task, meeting};
  }
};

/// Runs a member's forward pass; collective. Memory is O(n / P): states of its own rows, and a few messages.
template <class Scalar, class Communicator>
std::uint64_t forward_ring(const RingPlace& place, Communicator& communicator,
                           const detail::ForwardTensors<Scalar>& tensors, const TileKernel<Scalar>& kernel) {
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
      [&](int step, const detail::Transfer& transfer, const KeyMessage<Scalar>& message,
          const detail::Transfer&) {
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
