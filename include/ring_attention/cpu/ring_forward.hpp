// A ring member's forward pass.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <ring_attention/cpu/forward_pass.hpp>
#include <ring_attention/cpu/forward_tasks.hpp>
#include <ring_attention/cpu/key_pieces.hpp>
#include <ring_attention/cpu/ring.hpp>
#include <ring_attention/cpu/workspace.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/plan/shards.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

template <class Scalar>
struct RingForward<Scalar>::Member {
  using T = accumulator_t<Scalar>;
  using Workspace = ForwardWorkspace<Scalar>;

  Member(const RingPlace& place, const detail::ForwardTensors<Scalar>& all,
         const ForwardExecution<Scalar>& execution, const Progress& call_progress)
      : plan(*place.plan),
        tensors(all),
        kernel(*execution.kernel),
        threads(execution.threads),
        progress(call_progress),
        mine(place.tokens(place.rank)),
        rows(place.rows()),
        sizes(fast_forward_sizes<T>(
            plan, (std::max)({std::int64_t{1}, mine.runs[0].size(), mine.runs[1].size()}), threads)),
        tasks(plan, sizes),
        pass(plan, tensors, kernel, rows) {
    carve(detail::Carver(memory.reserve(carve(detail::Carver()))));
  }

  /// Lays states and workspaces out in a block; returns its size.
  std::size_t carve(detail::Carver carver) {
    const std::int64_t count = plan.shape.batch * plan.shape.heads * mine.size();
    states.output = carver.take<T>(count * kernel.tile.padded(plan.shape.head_dim));
    states.maximum = carver.take<T>(count);
    states.sum = carver.take<T>(count);
    parts = detail::ThreadParts(carver, threads, [this](detail::Carver& part) { workspace(part); });
    return carver.used();
  }

  Workspace workspace(detail::Carver& part) const {
    return Workspace(part, kernel, sizes, plan.shape.head_dim, false);
  }

  /// Calls body(task, states of the task, workspace) for every task of the member's rows.
  template <class Body>
  void for_each_task(const Body& body) {
    const std::int64_t first = tasks.count(mine.runs[0]);
    detail::parallel_for(first + tasks.count(mine.runs[1]), threads, [&](std::int64_t index, int worker) {
      detail::Carver part = parts.of(worker);
      Workspace work = workspace(part);
      const detail::TokenRun& run = mine.runs[index < first ? 0 : 1];
      const ForwardTask task = tasks.task(run, index < first ? index : index - first);
      const std::int64_t row =
          (task.item * plan.shape.heads + task.head_begin) * mine.size() + mine.rows(task.begin);
      RowStates<T> task_states = states;
      task_states.output += row * kernel.tile.padded(plan.shape.head_dim);
      task_states.maximum += row;
      task_states.sum += row;
      task_states.head_stride = mine.size();
      task_states.first_head = task.head_begin;
      task_states.first_token = task.begin;
      body(task, task_states, work);
      if (worker == 0) progress();
    });
  }

  const AttentionPlan& plan;
  const detail::ForwardTensors<Scalar>& tensors;
  const ForwardKernel<Scalar>& kernel;
  int threads;
  Progress progress;
  detail::MemberTokens mine;
  detail::TokenRows rows;  // of the tensors
  ForwardSizes sizes;
  ForwardTasks tasks;
  ForwardPass<Scalar> pass;
  detail::Block memory;
  RowStates<T> states;
  detail::ThreadParts parts;
};

template <class Scalar>
RingForward<Scalar>::RingForward(const RingPlace& place, const detail::ForwardTensors<Scalar>& tensors,
                                 const ForwardExecution<Scalar>& execution, const Progress& progress)
    : member_(std::make_unique<Member>(place, tensors, execution, progress)) {}

template <class Scalar>
RingForward<Scalar>::~RingForward() = default;

template <class Scalar>
void RingForward<Scalar>::meet_own_keys() {
  Member& member = *member_;
  const OwnKeys<const Scalar> keys(member.tensors.k, member.tensors.v, member.mine, member.rows);
  member.for_each_task([&](const ForwardTask& task, const auto& states, auto& work) {
    member.pass.reset(task, states);
    member.pass.absorb_zero_keys(task, states, work);
    member.pass.attend(task, states, work, keys);
  });
}

template <class Scalar>
void RingForward<Scalar>::meet(const KeyMessage<const Scalar>& message) {
  if (message.size() == 0) return;
  member_->for_each_task([&](const ForwardTask& task, const auto& states, auto& work) {
    member_->pass.attend(task, states, work, message);
  });
}

template <class Scalar>
void RingForward<Scalar>::finish() {
  member_->for_each_task(
      [&](const ForwardTask& task, const auto& states, auto&) { member_->pass.finish(task, states); });
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
