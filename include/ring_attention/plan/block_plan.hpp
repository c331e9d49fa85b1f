// Plans of block-sparse calls.
#pragma once

#include <algorithm>
#include <cstdint>
#include <ring_attention/config.hpp>
#include <ring_attention/pattern/block_sparse_config.hpp>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/plan/make_plan.hpp>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

namespace detail {

RING_ATTENTION_INLINE PlannedCall plan_block_call(AttentionConfig config, const BlockSparseConfig& sparse,
                                                  const CallShape& shape,
                                                  const std::vector<std::int64_t>& lengths,
                                                  const PatternFunction& lookup) {
  // The block list takes the place of branches and rules.
  config.segment_lengths.clear();
  config.dilation_rates.clear();
  config.query_rule = QueryRule::all;
  config.padding_rule = PaddingRule::masked;
  PlannedCall call = plan_call(config, shape, lengths, lookup);
  AttentionPlan& plan = call.plan;
  plan.block_size = (std::min)(sparse.block_size, std::max<std::int64_t>(shape.tokens, 1));
  if (shape.batch == 0 || shape.tokens == 0) return call;
  check_block_range(sparse, shape.tokens);
  for (SequencePlan& sequence : plan.sequences) {
    const DilatedIndices& lists =
        call.take(block_pattern_key(sparse, config.causal, sequence.length), lookup);
    sequence.blocks = {lists.branch_begins(), lists.all_rows()};
    BranchPlan& branch = sequence.branches.emplace_back();
    branch.segment_length = (std::max<std::int64_t>)(sequence.length, 1);
    branch.dilation_rate = 1;
    branch.head_end = shape.heads;
    branch.offsets.push_back({});
    branch.offset_of_head.assign(static_cast<std::size_t>(shape.heads), 0);
  }
  return call;
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
