// How a forward call is divided over threads: tasks, blocks of query rows of heads that share keys.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/plan/shards.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// How a call is cut into tasks.
struct ForwardSizes {
  std::int64_t heads_per_task = 1;
  std::int64_t rows_per_task = 1;
  std::int64_t run_keys = 1;
};

/// Sizes that are fast: a state of 1 MiB, because longer blocks pack each key for more queries, and runs of
/// keys that stay in the second-level cache. Blocks are no longer than a shard, so that working memory is O(n
/// / ring_size), and short enough that all threads find work and end at about the same time.
template <class T>
ForwardSizes fast_forward_sizes(const AttentionPlan& plan, std::int64_t longest_run, int threads) {
  struct Aim {
    std::int64_t tasks_per_thread, least_rows;
  };
  constexpr std::int64_t shortest = 64;
  constexpr std::int64_t whole_vectors = 16;
  constexpr std::int64_t state_elements = (std::int64_t{1} << 20) / static_cast<std::int64_t>(sizeof(T));
  const CallShape& shape = plan.shape;
  const std::int64_t group = shape.heads / shape.kv_heads;
  ForwardSizes sizes;
  sizes.run_keys = 512;
  sizes.heads_per_task = std::clamp<std::int64_t>(state_elements / (shortest * shape.head_dim), 1, group);
  sizes.rows_per_task = (std::max)(shortest, state_elements / (sizes.heads_per_task * shape.head_dim));

  const std::int64_t columns = shape.batch * shape.kv_heads * detail::ceil_div(group, sizes.heads_per_task) *
                               detail::ceil_div(shape.tokens, longest_run);
  std::int64_t blocks = detail::ceil_div(longest_run, sizes.rows_per_task);  // of a shard
  // Long blocks share packed keys; short ones are better than threads that wait.
  for (const Aim& aim : {Aim{4, 512}, Aim{2, 256}, Aim{1, shortest}}) {
    while (threads > 1 && blocks * columns < aim.tasks_per_thread * threads &&
           longest_run >= 2 * blocks * aim.least_rows) {
      blocks *= 2;
    }
  }
  // As many tasks for every thread.
  const std::int64_t step = threads / std::gcd(columns, std::int64_t{threads});
  const std::int64_t even = detail::ceil_div(blocks, step) * step;
  if (longest_run >= even * shortest) blocks = even;
  const std::int64_t rows = detail::ceil_div(longest_run, blocks);
  sizes.rows_per_task = (std::min)(detail::ceil_div(rows, whole_vectors) * whole_vectors, longest_run);
  return sizes;
}

/// Query rows [begin, end) for heads [head_begin, head_end) of one batch item, all with one key/value head.
struct ForwardTask {
  std::int64_t item, kv_head, head_begin, head_end;
  std::int64_t begin, end;  // tokens
  std::int64_t valid_end;   // rows from here on lie past the item's length
};

/// Numbers the tasks of a call over the token runs that a member owns: items x key/value heads x parts of a
/// head group x row blocks, later blocks first, because they have more keys when causal.
class ForwardTasks {
 public:
  ForwardTasks(const AttentionPlan& plan, const ForwardSizes& sizes) : plan_(&plan), sizes_(sizes) {
    group_ = plan.shape.heads / plan.shape.kv_heads;
    parts_ = detail::ceil_div(group_, sizes.heads_per_task);
    columns_ = plan.shape.batch * plan.shape.kv_heads * parts_;
  }

  std::int64_t blocks(std::int64_t tokens) const { return detail::ceil_div(tokens, sizes_.rows_per_task); }
  std::int64_t count(const detail::TokenRun& run) const { return blocks(run.size()) * columns_; }

  ForwardTask task(const detail::TokenRun& run, std::int64_t index) const {
    const std::int64_t block = blocks(run.size()) - 1 - index / columns_;
    std::int64_t rest = index % columns_;
    const std::int64_t part = rest % parts_;
    rest /= parts_;
    ForwardTask task{};
    task.kv_head = rest % plan_->shape.kv_heads;
    task.item = rest / plan_->shape.kv_heads;
    task.head_begin = task.kv_head * group_ + part * sizes_.heads_per_task;
    task.head_end = (std::min)(task.head_begin + sizes_.heads_per_task, (task.kv_head + 1) * group_);
    task.begin = run.begin + block * sizes_.rows_per_task;
    task.end = (std::min)(task.begin + sizes_.rows_per_task, run.end);
    task.valid_end = std::clamp(plan_->sequence_of(task.item).length, task.begin, task.end);
    return task;
  }

 private:
  const AttentionPlan* plan_;
  ForwardSizes sizes_;
  std::int64_t group_, parts_, columns_;
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
