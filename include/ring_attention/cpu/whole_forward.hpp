// One process, whole tensors: plays every member of the ring in turn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ring_attention/cpu/forward_pass.hpp>
#include <ring_attention/cpu/forward_tasks.hpp>
#include <ring_attention/cpu/key_pieces.hpp>
#include <ring_attention/cpu/whole.hpp>
#include <ring_attention/cpu/workspace.hpp>
#include <ring_attention/cpu/workspace_limit.hpp>
#include <ring_attention/kernel/execution.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/plan/shards.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

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
std::size_t forward_whole(const AttentionPlan& plan, const detail::ForwardTensors<Scalar>& tensors,
                          const ForwardExecution<Scalar>& execution, std::size_t limit,
                          detail::Block& memory) {
  using T = accumulator_t<Scalar>;
  if (plan.shape.batch == 0 || plan.shape.tokens == 0) return 0;
  const ForwardKernel<Scalar>& kernel = *execution.kernel;
  const detail::SequenceRuns shards(plan.shape.tokens, plan.ring_size);
  const auto workspace = [&](detail::Carver& carver, const ForwardSizes& sizes) {
    return ForwardWorkspace<Scalar>(carver, kernel, sizes, plan.shape.head_dim, true);
  };
  const auto lay_out = [&](detail::Carver& carver, const ForwardSizes& sizes, int threads) {
    return detail::ThreadParts(carver, threads, [&](detail::Carver& part) { workspace(part, sizes); });
  };
  const auto fast = fast_forward_sizes<T>(plan, shards.run_length, execution.threads);
  const Fit<ForwardSizes> fitted = fit_into(memory, fast, execution.threads, limit, lay_out);
  detail::Carver carver(memory.data());
  const detail::ThreadParts parts = lay_out(carver, fitted.sizes, fitted.threads);
  const ForwardTasks tasks(plan, fitted.sizes);
  const ForwardPass<Scalar> pass(plan, tensors, kernel);

  // All shards but the last are equally long: a task is found by division.
  const auto run_of = [&shards](std::int64_t shard) {
    return detail::TokenRun{shards.begin(shard), shards.end(shard)};
  };
  const std::int64_t per_shard = tasks.count(run_of(0));
  // The last shard, which may be short, comes first.
  const std::int64_t short_tasks = tasks.count(run_of(shards.count() - 1));
  const std::int64_t total = per_shard * (shards.count() - 1) + short_tasks;
  detail::parallel_for(total, fitted.threads, [&](std::int64_t index, int worker) {
    detail::Carver part = parts.of(worker);
    ForwardWorkspace<Scalar> work = workspace(part, fitted.sizes);
    const std::int64_t rest = index - short_tasks;
    const std::int64_t shard = shards.count() - (rest < 0 ? 1 : 2 + rest / per_shard);
    const ForwardTask task = tasks.task(run_of(shard), rest < 0 ? index : rest % per_shard);
    RowStates<T> states = work.states;
    states.head_stride = task.end - task.begin;
    states.first_head = task.head_begin;
    states.first_token = task.begin;

    pass.reset(task, states);
    pass.absorb_zero_keys(task, states, work);
    pass.attend(task, states, work, ShardKeys<Scalar>(tensors, shards, shard));
    pass.finish(task, states);
  });
  return fitted.bytes;
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
