// The rules of dilated attention: which heads run which branch, and which rows each keeps.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ring_attention/config.hpp>
#include <ring_attention/error.hpp>
#include <ring_attention/plan/make_plan.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/version.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Heads [first, second) of a branch.
inline std::pair<std::int64_t, std::int64_t> heads_of_branch(const AttentionConfig& config,
                                                             std::int64_t heads, std::int64_t branch) {
  if (config.head_partition == HeadPartition::shared) return {0, heads};
  const auto branches = static_cast<std::int64_t>(config.segment_lengths.size());
  const std::int64_t each = heads / branches;
  const std::int64_t plain = branches - heads % branches;  // branches before the remainder's
  const auto begin = [&](std::int64_t i) { return i * each + std::max<std::int64_t>(0, i - plain); };
  return {begin(branch), begin(branch + 1)};
}

/// Residue class that a head keeps in a branch; j of LongNet eq. 11 and its published variants.
inline std::int64_t offset_of_head(OffsetRule rule, std::int64_t branch, std::int64_t rate, std::int64_t head,
                                   std::int64_t heads) {
  switch (rule) {
    case OffsetRule::by_branch:
      return branch % rate;
    case OffsetRule::by_head:
      return head % rate;
    case OffsetRule::by_head_block:
      return head / ceil_div(heads, rate);
  }
  throw_invalid("offset_rule", static_cast<std::int64_t>(rule), "is not a value of OffsetRule");
}

inline SequencePlan plan_sequence(const AttentionConfig& config, std::int64_t heads, std::int64_t length,
                                  const PatternFunction& lookup, PlannedCall& call) {
  SequencePlan sequence;
  sequence.length = length;
  if (length == 0) return sequence;
  for (std::size_t i = 0; i < config.segment_lengths.size(); ++i) {
    const auto branch_index = static_cast<std::int64_t>(i);
    BranchPlan branch;
    branch.segment_length = (std::min)(config.segment_lengths[i], length);
    branch.dilation_rate = config.dilation_rates[i];
    std::tie(branch.head_begin, branch.head_end) = heads_of_branch(config, heads, branch_index);
    for (std::int64_t head = branch.head_begin; head < branch.head_end; ++head) {
      const std::int64_t offset =
          offset_of_head(config.offset_rule, branch_index, branch.dilation_rate, head, heads);
      const auto known = std::find_if(branch.offsets.begin(), branch.offsets.end(),
                                      [offset](const auto& entry) { return entry.offset == offset; });
      branch.offset_of_head.push_back(static_cast<std::size_t>(known - branch.offsets.begin()));
      if (known == branch.offsets.end()) {
        const PatternKey key{length, {branch.segment_length}, {branch.dilation_rate}, offset};
        branch.offsets.push_back({offset, call.take(key, lookup).progression()});
      }
    }
    if (branch.head_begin < branch.head_end) sequence.branches.push_back(std::move(branch));
  }
  return sequence;
}

RING_ATTENTION_INLINE void check_lengths(const CallShape& shape, const std::vector<std::int64_t>& lengths) {
  if (!lengths.empty() && static_cast<std::int64_t>(lengths.size()) != shape.batch) {
    throw_invalid("lengths.size()", static_cast<std::int64_t>(lengths.size()),
                  "must be empty or equal the batch size " + std::to_string(shape.batch));
  }
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 0 || lengths[i] > shape.tokens) {
      throw_invalid(element_name("lengths", i), lengths[i],
                    "must lie in [0, n] with n = " + std::to_string(shape.tokens));
    }
  }
}

RING_ATTENTION_INLINE PlannedCall plan_call(const AttentionConfig& config, const CallShape& shape,
                                            const std::vector<std::int64_t>& lengths,
                                            const PatternFunction& lookup) {
  check_lengths(shape, lengths);
  PlannedCall call;
  AttentionPlan& plan = call.plan;
  plan.shape = shape;
  plan.scale = config.scale.value_or(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
  plan.causal = config.causal;
  plan.query_rule = config.query_rule;
  plan.zero_keys = config.padding_rule == PaddingRule::zero_attended && !config.causal;
  plan.detached_mix = config.mix_gradient == MixGradient::detached &&
                      config.head_partition == HeadPartition::shared && config.segment_lengths.size() > 1;
  plan.ring_size = config.ring_size;
  if (shape.tokens == 0) return call;  // nothing to compute, however many items there are
  for (std::int64_t item = 0; item < shape.batch; ++item) {
    const std::int64_t length = lengths.empty() ? shape.tokens : lengths[static_cast<std::size_t>(item)];
    const auto known = std::find_if(plan.sequences.begin(), plan.sequences.end(),
                                    [length](const auto& sequence) { return sequence.length == length; });
    plan.sequence_of_item.push_back(static_cast<std::size_t>(known - plan.sequences.begin()));
    if (known == plan.sequences.end()) {
      plan.sequences.push_back(plan_sequence(config, shape.heads, length, lookup, call));
    }
  }
  return call;
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
