// RingDistributedDilatedAttention: one ring member per rank of a communicator; takes and gives shards.
#pragma once

#include <cstdint>
#include <ring_attention/attention/shard_interface.hpp>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {

/// Exact dilated attention (LongNet, arXiv 2307.02486, eq. 2-11) over a sequence that is spread over the
/// ranks of a communicator. The result is that of RingDilatedAttentionV2 on the whole tensors, up to
/// rounding.
///
/// MixGradient::detached with several shared branches sends keys and values a second time in backward: a
/// branch's weight is known once all its keys were seen. Calls, shapes and errors: see ShardAttention.
template <typename Scalar, typename Communicator, typename CachePolicy = use_pattern_cache>
class RingDistributedDilatedAttention
    : public ShardAttention<RingDistributedDilatedAttention<Scalar, Communicator, CachePolicy>, Scalar,
                            Communicator, CachePolicy> {
  using Base = ShardAttention<RingDistributedDilatedAttention, Scalar, Communicator, CachePolicy>;
  friend Base;

 public:
  /// Collective. The ring has as many members as the communicator has ranks; `config.ring_size` must be that
  /// number, or 1 to leave it open. The communicator must outlive this object.
  RingDistributedDilatedAttention(AttentionConfig config, Communicator& communicator,
                                  CachePolicy cache_policy = CachePolicy())
      : Base(std::move(config), communicator, std::move(cache_policy),
             [] { return detail::AgreementFields(); }) {}

  using Base::plan_report;
  /// The report for one head per branch.
  PlanReport plan_report(std::int64_t total_sequence_length) const {
    const auto heads = static_cast<std::int64_t>(this->config().segment_lengths.size());
    return plan_report(total_sequence_length, heads, heads);
  }

 private:
  static constexpr const char* attention_kind = "dilated";

  void check_call(const CallShape&) const {}

  detail::PlannedCall plan_call(const CallShape& shape, const std::vector<std::int64_t>& lengths) const {
    return detail::plan_call(this->config(), shape, lengths,
                             [this](const PatternKey& key) { return this->apply_dilation(key); });
  }
};

}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
