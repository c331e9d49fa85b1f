// One process, whole tensors: plays every member of the ring in turn.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/cpu/execution.hpp>
#include <ring_attention/cpu/forward_pass.hpp>
#include <ring_attention/cpu/forward_tasks.hpp>
#include <ring_attention/cpu/key_pieces.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/plan/shards.hpp>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Memory that a whole call works in: one workspace per thread.
class WholeWorkspace {
 public:
  std::size_t size() const { return block_.size(); }

  template <class Scalar>
  static std::size_t bytes_per_thread(const TileKernel<Scalar>& kernel, const ForwardSizes& sizes,
                                      std::int64_t head_dim) {
    detail::Carver count;
    ForwardWorkspace<Scalar>(count, kernel, sizes, head_dim, true);
    return count.used();
  }

  std::byte* reserve(std::size_t bytes_per_thread, int threads) {
    return block_.reserve(bytes_per_thread * static_cast<std::size_t>(threads));
  }

 private:
  detail::Block block_;
};

/// Whole tensors in the order in which a shard's queries meet them.
template <class Scalar>
struct ShardKeys : KeyTensors<const Scalar> {
  ShardKeys(const detail::ForwardTensors<Scalar>& tensors, const detail::SequenceRuns& all, std::int64_t own)
      : KeyTensors<const Scalar>{tensors.k, tensors.v, {}}, shards(all), shard(own) {}

  LocalPlaces<RingOrder> places(std::int64_t, std::int64_t, const detail::Meeting& meeting,
                                std::int64_t begin, std::int64_t end) const {
    return {meeting.segment, RingOrder(shards, shard, meeting.segment), begin, end};
  }

  const detail::SequenceRuns& shards;
  std::int64_t shard;
};

template <class Scalar>
void forward_whole(const AttentionPlan& plan, const detail::ForwardTensors<Scalar>& tensors,
                   const TileKernel<Scalar>& kernel, const ForwardSizes& sizes, int threads,
                   WholeWorkspace& workspace) {
  const detail::SequenceRuns shards(plan.shape.tokens, plan.ring_size);
  const ForwardTasks tasks(plan, sizes);
  const ForwardPass<Scalar> pass(plan, tensors, kernel);
  const std::size_t bytes = WholeWorkspace::bytes_per_thread(kernel, sizes, plan.shape.head_dim);
  std::byte* const memory = workspace.reserve(bytes, threads);

  // All shards but the last are equally long: a task is found by division.
  const auto run_of = [&shards](std::int64_t shard) {
    return detail::TokenRun{shards.begin(shard), shards.end(shard), 0, 0};
  };
  const std::int64_t per_shard = tasks.count(run_of(0));
  const std::int64_t total = per_shard * (shards.count() - 1) + tasks.count(run_of(shards.count() - 1));
  detail::parallel_for(total, threads, [&](std::int64_t index, int worker) {
    detail::Carver carver(memory + bytes * static_cast<std::size_t>(worker));
    ForwardWorkspace<Scalar> work(carver, kernel, sizes, plan.shape.head_dim, true);
    const std::int64_t from_last = total - tasks.count(run_of(shards.count() - 1));
    // The last shard, which may be short, comes first.
    const std::int64_t short_tasks = total - from_last;
    const std::int64_t shard =
        index < short_tasks ? shards.count() - 1 : shards.count() - 2 - (index - short_tasks) / per_shard;
    const ForwardTask task =
        tasks.task(run_of(shard), index < short_tasks ? index : (index - short_tasks) % per_shard);
    RowStates<accumulator_t<Scalar>> states = work.states;
    states.head_stride = task.end - task.begin;
    states.first_head = task.head_begin;
    states.first_token = task.begin;

    pass.reset(task, states);
    pass.absorb_zero_keys(task, states, work);
    pass.attend(task, states, work, ShardKeys<Scalar>(tensors, shards, shard));
    pass.finish(task, states);
  });
}

/// Executes a plan with fast sizes. `tensors.lse` may be a view without data: then it is not written.
template <class Scalar>
void forward_whole(const AttentionPlan& plan, const detail::ForwardTensors<Scalar>& tensors,
                   const Execution<Scalar>& execution) {
  using T = accumulator_t<Scalar>;
  if (plan.shape.batch == 0 || plan.shape.tokens == 0) return;
  const detail::SequenceRuns shards(plan.shape.tokens, plan.ring_size);
  WholeWorkspace workspace;
  forward_whole(plan, tensors, *execution.kernel,
                fast_forward_sizes<T>(plan, shards.run_length, execution.threads), execution.threads,
                workspace);
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
