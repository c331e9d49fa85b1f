// AttentionPlan: which rows meet which rows in one call, as plain data that any backend can execute.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <ring_attention/config.hpp>
#include <ring_attention/error.hpp>
#include <ring_attention/memory_overlap.hpp>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/pattern/pattern_cache.hpp>
#include <ring_attention/tensor.hpp>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// Extents of one call.
struct CallShape {
  std::int64_t batch = 0;     ///< b
  std::int64_t tokens = 0;    ///< n, of the whole sequence
  std::int64_t heads = 0;     ///< h, query heads
  std::int64_t kv_heads = 0;  ///< h_kv, which divides h
  std::int64_t head_dim = 0;  ///< d

  /// Whether every extent is equal.
  friend bool operator==(const CallShape&, const CallShape&) = default;
};

/// One branch (w, r) as the heads [head_begin, head_end) run it on a sequence of one length.
struct BranchPlan {
  /// One residue class of the branch and the rows that it keeps.
  struct Offset {
    std::int64_t offset = 0;        ///< o, in [0, r)
    Progression kept;               ///< rows of a whole segment, relative to its start
    PatternKey key;                 ///< of the pattern
    PatternCache::Pattern pattern;  ///< whence the rows; of a block-sparse plan, for each query block its key
                                    ///< blocks
  };

  std::int64_t segment_length = 0;          ///< clipped to the sequence
  std::int64_t dilation_rate = 0;           ///< r
  std::int64_t head_begin = 0;              ///< first query head that runs it
  std::int64_t head_end = 0;                ///< one past the last
  std::vector<Offset> offsets;              ///< distinct residue classes
  std::vector<std::size_t> offset_of_head;  ///< position in offsets, by head - head_begin
};

/// What happens in a sequence of one length.
struct SequencePlan {
  std::int64_t length = 0;           ///< valid tokens
  std::vector<BranchPlan> branches;  ///< those that any head runs
};

/// Everything that a call computes but for its numbers.
struct AttentionPlan {
  CallShape shape;                        ///< of the whole call
  double scale = 1.0;                     ///< factor of the scores
  bool causal = false;                    ///< keys after a query's position are hidden from it
  QueryRule query_rule = QueryRule::all;  ///< which queries attend
  /// Segments are padded with zero keys up to ceil(w / r) rows that every query of the segment attends to.
  bool zero_keys = false;
  /// Backward takes the weights that mix the branches of a head for constants.
  bool detached_mix = false;
  std::int64_t ring_size = 1;  ///< P, number of shards
  /// Not 0: block-sparse, with blocks of that many tokens, clipped to the sequence. Each sequence then has
  /// one branch, one segment long.
  std::int64_t block_size = 0;
  std::vector<SequencePlan> sequences;        ///< one per distinct valid length
  std::vector<std::size_t> sequence_of_item;  ///< position in sequences, by batch item

  /// The plan of a batch item's sequence.
  const SequencePlan& sequence_of(std::int64_t item) const {
    return sequences[sequence_of_item[static_cast<std::size_t>(item)]];
  }
  /// The largest number of branches of a sequence.
  std::size_t branch_count() const {
    std::size_t count = 0;
    for (const SequencePlan& sequence : sequences) count = (std::max)(count, sequence.branches.size());
    return count;
  }
};

namespace detail {

/// Finds the pattern of a key; what the cache policy of an attention class does.
using PatternLookup = std::function<PatternCache::Pattern(const PatternKey&)>;

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0); }

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
                                  const PatternLookup& lookup) {
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
        PatternCache::Pattern pattern = lookup(key);
        const Progression kept = pattern->progression();
        branch.offsets.push_back({offset, kept, key, std::move(pattern)});
      }
    }
    if (branch.head_begin < branch.head_end) sequence.branches.push_back(std::move(branch));
  }
  return sequence;
}

/// Throws std::invalid_argument for lengths that do not fit the shape.
inline void check_lengths(const CallShape& shape, const std::vector<std::int64_t>& lengths) {
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

/// Throws as check_lengths does. `config` and `shape` have been checked.
inline AttentionPlan make_plan(const AttentionConfig& config, const CallShape& shape,
                               const std::vector<std::int64_t>& lengths, const PatternLookup& lookup) {
  check_lengths(shape, lengths);
  AttentionPlan plan;
  plan.shape = shape;
  plan.scale = config.scale.value_or(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
  plan.causal = config.causal;
  plan.query_rule = config.query_rule;
  plan.zero_keys = config.padding_rule == PaddingRule::zero_attended && !config.causal;
  plan.detached_mix = config.mix_gradient == MixGradient::detached &&
                      config.head_partition == HeadPartition::shared && config.segment_lengths.size() > 1;
  plan.ring_size = config.ring_size;
  if (shape.tokens == 0) return plan;  // nothing to compute, however many items there are
  for (std::int64_t item = 0; item < shape.batch; ++item) {
    const std::int64_t length = lengths.empty() ? shape.tokens : lengths[static_cast<std::size_t>(item)];
    const auto known = std::find_if(plan.sequences.begin(), plan.sequences.end(),
                                    [length](const auto& sequence) { return sequence.length == length; });
    plan.sequence_of_item.push_back(static_cast<std::size_t>(known - plan.sequences.begin()));
    if (known == plan.sequences.end()) {
      plan.sequences.push_back(plan_sequence(config, shape.heads, length, lookup));
    }
  }
  return plan;
}

/// Checks that q [b, n, h, d], k and v [b, n, h_kv, d] fit together; returns their extents.
template <class View>
CallShape check_inputs(const View& q, const View& k, const View& v) {
  const auto [b, n, h, d] = q.shape();
  const std::int64_t kv_heads = k.shape()[2];
  require_positive("q heads", h);
  require_positive("q head dimension", d);
  require_positive("k heads", kv_heads);
  if (k.shape() != Shape{b, n, kv_heads, d}) {
    throw_invalid("k shape", to_string(k.shape()),
                  "must agree with q in b, n and d; q has shape " + to_string(q.shape()));
  }
  if (v.shape() != k.shape()) {
    throw_invalid("v shape", to_string(v.shape()), "must equal the shape of k, " + to_string(k.shape()));
  }
  if (h % kv_heads != 0) {
    throw_invalid("q heads", h,
                  "must be a multiple of the key/value heads, of which k has " + std::to_string(kv_heads));
  }
  return {b, n, h, kv_heads, d};
}

inline Shape lse_shape(const Shape& q_shape) { return {q_shape[0], q_shape[2], q_shape[1], 1}; }

inline void check_shape(std::string_view name, const Shape& shape, const Shape& expected) {
  if (shape != expected) {
    throw_invalid(std::string(name) + " shape", to_string(shape), "must be " + to_string(expected));
  }
}

/// Checks a tensor that a call writes to.
template <class View>
void check_output(std::string_view name, const View& view, const Shape& expected) {
  check_shape(name, view.shape(), expected);
  if (!rows_overlap(view)) return;
  for (std::size_t axis = 0; axis < 3; ++axis) {
    if (view.strides()[axis] == 0 && expected[axis] > 1) {
      throw_invalid(element_name(std::string(name) + " strides", axis), std::int64_t{0},
                    "rows that are written must not share memory");
    }
  }
  std::string strides;
  for (const std::int64_t stride : view.strides()) {
    strides += (strides.empty() ? "" : ", ") + std::to_string(stride);
  }
  throw_invalid(
      std::string(name) + " strides", "[" + strides + "]",
      "rows that are written must not share memory, and rows of shape " + to_string(expected) + " do");
}

/// Checks that a tensor that a call writes to shares no memory with another of its tensors.
template <class Output, class Other>
void check_apart(std::string_view name, const Output& output, std::string_view other_name,
                 const Other& other) {
  if (views_overlap(output, other)) {
    throw_invalid(name, "memory of " + std::string(other_name),
                  "what a call writes must not share memory with what it reads or writes besides");
  }
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
