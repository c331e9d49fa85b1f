// TrueRingDilatedAttention: P ring members on P threads of one process.
#pragma once

#include <climits>
#include <cstdint>
#include <ring_attention/attention/interface.hpp>
#include <ring_attention/cpu/key_exchange.hpp>
#include <ring_attention/kernel/choice.hpp>
#include <ring_attention/plan/plan_report.hpp>
#include <ring_attention/ring/communicator.hpp>
#include <ring_attention/ring/thread_communicator.hpp>
#include <ring_attention/ring/thread_members.hpp>
#include <string>
#include <utility>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {

/// Exact dilated attention by `config.ring_size` members that own disjoint shards of the sequence
/// (`config.shard_layout`) and exchange the keys and values that the others' queries can see. Every member is
/// a thread, whatever set_num_threads says, and runs the code that a cluster's ranks run
/// (RingDistributedDilatedAttention); a member works in O(n / ring_size) of memory.
/// Immutable after construction; safe to call from several threads at once. Calls: see WholeTensorAttention.
/// They throw std::system_error that names ring_size if the system grants fewer threads than there are
/// members.
template <typename Scalar, typename CachePolicy = use_pattern_cache>
class TrueRingDilatedAttention
    : public WholeTensorAttention<TrueRingDilatedAttention<Scalar, CachePolicy>, Scalar, CachePolicy> {
  using Base = WholeTensorAttention<TrueRingDilatedAttention, Scalar, CachePolicy>;
  friend Base;

 public:
  /// Throws std::invalid_argument for a configuration that breaks a rule, a ring of more than 2^31 - 1
  /// members, or a negative timeout.
  explicit TrueRingDilatedAttention(AttentionConfig config, CachePolicy cache_policy = CachePolicy())
      : TrueRingDilatedAttention(std::move(config), CommunicatorOptions{}, std::move(cache_policy)) {}
  /// The same with a timeout of the caller's choice.
  TrueRingDilatedAttention(AttentionConfig config, CommunicatorOptions options,
                           CachePolicy cache_policy = CachePolicy())
      : Base(std::move(config), std::move(cache_policy)), options_(options) {
    if (this->config().ring_size > INT_MAX) {
      detail::throw_invalid("ring_size", this->config().ring_size,
                            "must be at most " + std::to_string(INT_MAX) + ": every member is a thread");
    }
    options_.validate();
  }

  /// What a forward call of this shape would have each member compute and send. Throws std::invalid_argument
  /// for a negative length, heads that are not positive, or heads that are no multiple of kv_heads.
  PlanReport plan_report(std::int64_t total_sequence_length, std::int64_t heads,
                         std::int64_t kv_heads) const {
    const CallShape shape = detail::report_shape(total_sequence_length, heads, kv_heads);
    return detail::report_plan(this->plan_call(shape, {}).plan, this->config().shard_layout);
  }
  /// The report for one head per branch.
  PlanReport plan_report(std::int64_t total_sequence_length) const {
    const auto heads = static_cast<std::int64_t>(this->config().segment_lengths.size());
    return plan_report(total_sequence_length, heads, heads);
  }

 private:
  void run_forward(const CallShape& shape, const detail::ForwardTensors<Scalar>& tensors,
                   const ForwardOptions& options, const engine::ForwardExecution<Scalar>& execution) const {
    if (shape.batch == 0 || shape.tokens == 0) return;
    const detail::PlannedCall call = this->plan_call(shape, options.lengths);
    const engine::ForwardExecution<Scalar> member{execution.kernel, 1};  // every member is one thread
    run_members([&](ThreadCommunicator& communicator) {
      engine::forward_ring(place(call.plan, communicator.rank()), communicator, tensors, member);
    });
  }

  void run_backward(const CallShape& shape, const detail::BackwardTensors<Scalar>& tensors,
                    const GradientViews<Scalar>& grads, const BackwardOptions& options,
                    const engine::BackwardExecution<Scalar>& execution) const {
    if (shape.batch == 0 || shape.tokens == 0) return;
    const detail::PlannedCall call = this->plan_call(shape, options.lengths);
    const engine::BackwardExecution<Scalar> member{execution.kernel, 1};  // every member is one thread
    run_members([&](ThreadCommunicator& communicator) {
      engine::backward_ring(place(call.plan, communicator.rank()), communicator, tensors, grads, member);
    });
  }

  engine::RingPlace place(const AttentionPlan& plan, int rank) const {
    return {&plan, this->config().shard_layout, rank, /*whole_tensors=*/true};
  }

  template <class Member>
  void run_members(const Member& member) const {
    detail::run_members(static_cast<int>(this->config().ring_size), options_, member);
  }

  CommunicatorOptions options_;
};

}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
