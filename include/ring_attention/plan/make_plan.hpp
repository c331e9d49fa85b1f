// From configuration, shape and lengths to a plan.
#pragma once

#include <cstdint>
#include <ring_attention/config.hpp>
#include <ring_attention/pattern/block_sparse_config.hpp>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/pattern/pattern_cache.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/version.hpp>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// A plan and the patterns that it was made from, which it may point into.
struct PlannedCall {
  AttentionPlan plan;
  std::vector<PatternKey> keys;
  std::vector<PatternCache::Pattern> patterns;  ///< by key

  /// The pattern of a key, kept as long as this call.
  const DilatedIndices& take(const PatternKey& key, const PatternFunction& lookup) {
    keys.push_back(key);
    patterns.push_back(lookup(key));
    return *patterns.back();
  }
};

/// Throws std::invalid_argument for lengths that do not fit the shape.
void check_lengths(const CallShape& shape, const std::vector<std::int64_t>& lengths);

/// The plan of a call. Throws as check_lengths does. `config` and `shape` have been checked.
PlannedCall plan_call(const AttentionConfig& config, const CallShape& shape,
                      const std::vector<std::int64_t>& lengths, const PatternFunction& lookup);

/// The plan of a block-sparse call: one branch of all heads, whose pattern lists the key blocks of each query
/// block. Throws std::invalid_argument for lengths or listed blocks that do not fit the shape.
PlannedCall plan_block_call(AttentionConfig config, const BlockSparseConfig& sparse, const CallShape& shape,
                            const std::vector<std::int64_t>& lengths, const PatternFunction& lookup);

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention

#if RING_ATTENTION_DEFINES_ENGINE
#include <ring_attention/plan/block_plan.hpp>
#include <ring_attention/plan/dilated_plan.hpp>
#endif
