// BlockSparseRingDistributedDilatedAttention: block-sparse attention over the ranks of a communicator.
#pragma once

#include <cstdint>
#include <ring_attention/attention/shard_interface.hpp>
#include <ring_attention/pattern/block_sparse_config.hpp>
#include <ring_attention/plan/make_plan.hpp>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {

/// BlockSparseRingDilatedAttention over a sequence that is spread over the ranks of a communicator: the same
/// result, up to rounding. Blocks are those of the whole sequence and may lie across shards; a key row
/// travels once to each other rank that holds a query whose block lists it, and ranks that share no pair
/// exchange nothing. Calls, shapes and errors: see ShardAttention; a listed pair past the end of the call's n
/// is refused on every rank.
template <typename Scalar, typename Communicator, typename CachePolicy = use_pattern_cache>
class BlockSparseRingDistributedDilatedAttention
    : public ShardAttention<BlockSparseRingDistributedDilatedAttention<Scalar, Communicator, CachePolicy>,
                            Scalar, Communicator, CachePolicy> {
  using Base = ShardAttention<BlockSparseRingDistributedDilatedAttention, Scalar, Communicator, CachePolicy>;
  friend Base;

 public:
  /// Collective. `config` as that of RingDistributedDilatedAttention; of its fields `causal`, `scale`,
  /// `ring_size` and `shard_layout` count. The communicator must outlive this object.
  BlockSparseRingDistributedDilatedAttention(AttentionConfig config, BlockSparseConfig sparse,
                                             Communicator& communicator,
                                             CachePolicy cache_policy = CachePolicy())
      : Base(std::move(config), communicator, std::move(cache_policy),
             [&sparse] {
               sparse.validate();
               return detail::agreement_fields(sparse);
             }),
        sparse_(std::move(sparse)) {}

  /// The same with the default blocks.
  BlockSparseRingDistributedDilatedAttention(AttentionConfig config, Communicator& communicator,
                                             CachePolicy cache_policy = CachePolicy())
      : BlockSparseRingDistributedDilatedAttention(std::move(config), BlockSparseConfig{}, communicator,
                                                   std::move(cache_policy)) {}

  const BlockSparseConfig& sparse_config() const { return sparse_; }  ///< as given to the constructor

  using Base::plan_report;
  /// The report for one head.
  PlanReport plan_report(std::int64_t total_sequence_length) const {
    return plan_report(total_sequence_length, 1, 1);
  }

 private:
  static constexpr const char* attention_kind = "block-sparse";

  void check_call(const CallShape& shape) const {
    if (shape.batch > 0 && shape.tokens > 0) detail::check_block_range(sparse_, shape.tokens);
  }

  detail::PlannedCall plan_call(const CallShape& shape, const std::vector<std::int64_t>& lengths) const {
    return detail::plan_block_call(this->config(), sparse_, shape, lengths,
                                   [this](const PatternKey& key) { return this->apply_dilation(key); });
  }

  BlockSparseConfig sparse_;
};

}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
