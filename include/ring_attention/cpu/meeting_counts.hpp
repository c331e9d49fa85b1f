// How many rows of the other side a row meets, which decides how a tolerance is shared among products.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/cpu/block_tasks.hpp>
#include <ring_attention/plan/plan.hpp>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// The most that one row meets in the whole call, over all branches and, for a key, the query heads that
/// share it. Never too small; too large where rows belong to some of the branches only.
struct Meetings {
  std::int64_t keys_of_query = 1;
  std::int64_t queries_of_key = 1;
};

/// Meetings by batch item and key/value head. Those of branches are counted when they are asked for, which is
/// quick; those of blocks, the same for every head, are kept.
class MeetingsOfCall {
 public:
  explicit MeetingsOfCall(const AttentionPlan& plan)
      : plan_(&plan), group_(plan.shape.heads / plan.shape.kv_heads) {
    if (plan.block_size == 0) return;
    for (const SequencePlan& sequence : plan.sequences) of_sequence_.push_back(of_blocks(sequence));
  }

  Meetings of(std::int64_t item, std::int64_t head) const {
    if (plan_->block_size == 0) return of_branches(plan_->sequence_of(item), head / group_);
    return of_sequence_[plan_->sequence_of_item[static_cast<std::size_t>(item)]];
  }

 private:
  Meetings of_branches(const SequencePlan& sequence, std::int64_t kv_head) const {
    Meetings most;
    std::int64_t queries = 0;
    for (std::int64_t head = kv_head * group_; head < (kv_head + 1) * group_; ++head) {
      std::int64_t keys = 0;
      for (const BranchPlan& branch : sequence.branches) {
        if (head < branch.head_begin || head >= branch.head_end) continue;
        const std::int64_t kept = detail::ceil_div(branch.segment_length, branch.dilation_rate);
        keys += kept;
        queries += plan_->query_rule == QueryRule::all ? branch.segment_length : kept;
      }
      most.keys_of_query = (std::max)(most.keys_of_query, keys);
    }
    most.queries_of_key = (std::max)(most.queries_of_key, queries);
    return most;
  }

  Meetings of_blocks(const SequencePlan& sequence) const {
    Meetings most;
    if (sequence.branches.empty()) return most;
    const BlockLists& lists = sequence.blocks;
    std::vector<std::int64_t> lists_of_block(lists.count());
    for (std::size_t query = 0; query < lists.count(); ++query) {
      const auto listed = lists.of(query);
      most.keys_of_query =
          (std::max)(most.keys_of_query, static_cast<std::int64_t>(listed.size()) * plan_->block_size);
      for (const std::int64_t key : listed) {
        const std::int64_t count = ++lists_of_block[static_cast<std::size_t>(key)];
        most.queries_of_key = (std::max)(most.queries_of_key, count * plan_->block_size * group_);
      }
    }
    return most;
  }

  const AttentionPlan* plan_;
  std::int64_t group_;
  std::vector<Meetings> of_sequence_;
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
