// RingDistributedDilatedAttention: one ring member per rank of a communicator; takes and gives shards.
#pragma once

#include <cstdint>
#include <exception>
#include <ring_attention/attention/interface.hpp>
#include <ring_attention/attention/options.hpp>
#include <ring_attention/engine/agreement_fields.hpp>
#include <ring_attention/engine/plan_report.hpp>
#include <ring_attention/engine/ring_backward.hpp>
#include <ring_attention/engine/ring_forward.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/ring/agreement.hpp>
#include <ring_attention/ring/communicator.hpp>
#include <string>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {

/// Exact dilated attention over a sequence that is spread over the ranks of a communicator.
///
/// Rank p holds the rows of its tokens (`shard_ranges(n)`) of q, k and v, in order, and gets the same rows of
/// the output; memory per rank is O(n / P). Only key/value rows that a remote query can see travel. The
/// result is that of RingDilatedAttentionV2 on the whole tensors, up to rounding.
///
/// Constructor and calls are collective: every rank makes them in the same order. Configuration and shapes
/// are compared before data moves; where they are invalid or differ, every rank throws std::invalid_argument
/// that names the rank and the field. When a rank throws later, the others throw MemberFailed; when one does
/// not answer within the communicator's timeout, PeerLost. One call at a time.
///
/// Shapes on a rank with m tokens: q, out and grad_out [b, m, h, d]; k and v [b, m, h_kv, d]; lse {b, h, m,
/// 1}. `lengths` counts tokens of the whole sequence and is the same on every rank.
template <typename Scalar, typename Communicator, typename CachePolicy = use_pattern_cache>
class RingDistributedDilatedAttention {
  static_assert(AttentionScalar<Scalar>, "Scalar must be float, double, Eigen::half or Eigen::bfloat16");
  static_assert(RingCommunicator<Communicator>,
                "Communicator must offer rank, size, send, receive, wait, all_gather and fail: see "
                "ring_attention/ring/communicator.hpp");
  static_assert(
      PatternCachePolicy<CachePolicy>,
      "CachePolicy must be use_pattern_cache, use_local_cache, use_no_cache or a copyable type with "
      "`dilated_indices(const PatternKey&) const`");

 public:
  using Accumulator = accumulator_t<Scalar>;
  using Input = TensorView<const Scalar>;

  /// The ring has as many members as the communicator has ranks; `config.ring_size` must be that number, or 1
  /// to leave it open. The communicator must outlive this object.
  RingDistributedDilatedAttention(AttentionConfig config, Communicator& communicator,
                                  CachePolicy cache_policy = CachePolicy())
      : config_(std::move(config)), communicator_(&communicator), cache_policy_(std::move(cache_policy)) {
    std::string error;
    try {
      config_.validate();
      if (config_.ring_size != 1 && config_.ring_size != communicator.size()) {
        detail::throw_invalid("ring_size", config_.ring_size,
                              "must be 1 or the number of ranks, " + std::to_string(communicator.size()));
      }
    } catch (const std::exception& invalid) {  // whatever it is, the others must hear of it
      error = invalid.what();
    }
    detail::require_agreement(communicator, detail::agreement_fields(config_), error);
    config_.ring_size = communicator.size();
  }

  const AttentionConfig& config() const { return config_; }
  const CachePolicy& cache_policy() const { return cache_policy_; }

  /// Tokens that each rank owns, in the order of its shard's rows.
  std::vector<std::vector<TokenRange>> shard_ranges(std::int64_t total_sequence_length) const {
    return ring_attention::shard_ranges(total_sequence_length, config_.ring_size, config_.shard_layout);
  }

  /// What a forward call of this shape would compute and send. Not collective.
  PlanReport plan_report(std::int64_t total_sequence_length, std::int64_t heads,
                         std::int64_t kv_heads) const {
    detail::require_positive("heads", heads);
    detail::require_positive("kv_heads", kv_heads);
    if (heads % kv_heads != 0) {
      detail::throw_invalid("heads", heads, "must be a multiple of kv_heads = " + std::to_string(kv_heads));
    }
    if (total_sequence_length < 0) {
      detail::throw_invalid("total_sequence_length", total_sequence_length, "must not be negative");
    }
    return engine::report_plan(make_plan({1, total_sequence_length, heads, kv_heads, 1}, {}),
                               config_.ring_size, config_.shard_layout);
  }
  /// The same with one head per branch.
  PlanReport plan_report(std::int64_t total_sequence_length) const {
    const auto heads = static_cast<std::int64_t>(config_.segment_lengths.size());
    return plan_report(total_sequence_length, heads, heads);
  }

  /// Payload of all messages of this rank's successful calls, in bytes. MixGradient::detached with several
  /// shared branches sends keys and values a second time in backward.
  std::uint64_t bytes_sent() const { return bytes_sent_; }

  Tensor<Scalar> forward(Input q, Input k, Input v, std::int64_t total_sequence_length,
                         const ForwardOptions& options = {}) const {
    return run_forward(q, k, v, total_sequence_length, options, false).out;
  }

  AttentionResult<Scalar> forward_with_lse(Input q, Input k, Input v, std::int64_t total_sequence_length,
                                           const ForwardOptions& options = {}) const {
    return run_forward(q, k, v, total_sequence_length, options, true);
  }

  /// Gradients of the rank's own rows; see WholeTensorAttention::backward.
  Gradients<Scalar> backward(Input q, Input k, Input v, const AttentionResult<Scalar>& result, Input grad_out,
                             std::int64_t total_sequence_length, const BackwardOptions& options = {}) const {
    TensorView<const Accumulator> grad_lse;
    const CallShape shape = agree("backward", q, k, v, total_sequence_length, options.lengths, [&] {
      detail::check_shape("result.out", result.out.shape(), q.shape());
      detail::check_shape("result.lse", result.lse.shape(), detail::lse_shape(q.shape()));
      detail::check_shape("grad_out", grad_out.shape(), q.shape());
      grad_lse = engine::checked_grad_lse<Accumulator>(options, detail::lse_shape(q.shape()));
    });
    return guarded([&] {
      Gradients<Scalar> grads{Tensor<Scalar>(q.shape()), Tensor<Scalar>(k.shape()),
                              Tensor<Scalar>(v.shape())};
      if (shape.batch == 0 || shape.tokens == 0) return grads;
      const AttentionPlan plan = make_plan(shape, options.lengths);
      const engine::BackwardTensors<Scalar> tensors{q, k, v, result.out, grad_out, result.lse, grad_lse};
      bytes_sent_ += engine::RingBackward<Scalar, Communicator>(place(plan), *communicator_, tensors)
                         .run({grads.q, grads.k, grads.v});
      return grads;
    });
  }

 private:
  AttentionResult<Scalar> run_forward(const Input& q, const Input& k, const Input& v, std::int64_t total,
                                      const ForwardOptions& options, bool with_lse) const {
    const CallShape shape = agree("forward", q, k, v, total, options.lengths, [] {});
    return guarded([&] {
      AttentionResult<Scalar> result{Tensor<Scalar>(q.shape(), detail::Uninitialized{}), {}};
      if (with_lse) result.lse = Tensor<Accumulator>(detail::lse_shape(q.shape()), detail::Uninitialized{});
      if (shape.batch == 0 || shape.tokens == 0) return result;
      const AttentionPlan plan = make_plan(shape, options.lengths);
      const engine::ForwardTensors<Scalar> tensors{q, k, v, result.out, result.lse};
      bytes_sent_ += engine::forward_ring<Scalar>(place(plan), *communicator_, tensors);
      return result;
    });
  }

  /// Checks a call's arguments on every rank together; returns the shape of the whole call.
  template <class MoreChecks>
  CallShape agree(const char* call, const Input& q, const Input& k, const Input& v, std::int64_t total,
                  const std::vector<std::int64_t>& lengths, const MoreChecks& more_checks) const {
    CallShape shape;
    std::string error;
    try {
      if (total < 0) detail::throw_invalid("total_sequence_length", total, "must not be negative");
      shape = detail::check_inputs(q, k, v);
      const std::int64_t own =
          detail::member_tokens(total, config_.ring_size, config_.shard_layout, communicator_->rank(), false)
              .size();
      if (shape.tokens != own) {
        detail::throw_invalid("q shape", to_string(q.shape()),
                              "rank " + std::to_string(communicator_->rank()) + " of " +
                                  std::to_string(config_.ring_size) + " holds the shard of " +
                                  std::to_string(own) + " out of " + std::to_string(total) +
                                  " tokens; whole tensors are for RingDilatedAttentionV2");
      }
      more_checks();
      shape.tokens = total;
      detail::check_lengths(shape, lengths);
    } catch (const std::exception& invalid) {  // whatever it is, the others must hear of it
      error = invalid.what();
    }
    detail::AgreementFields fields = detail::agreement_fields(shape, total, lengths);
    fields.emplace_back("call", call);
    fields.emplace_back("Scalar",
                        std::to_string(sizeof(Scalar)) + (std::is_same_v<Scalar, Eigen::half> ? "h" : ""));
    detail::require_agreement(*communicator_, fields, error);
    return shape;
  }

  /// Tells the others when this rank cannot go on.
  template <class Call>
  auto guarded(const Call& call) const {
    try {
      return call();
    } catch (const MemberFailed&) {
      throw;
    } catch (const std::exception& error) {
      communicator_->fail(error.what());
      throw;
    } catch (...) {
      communicator_->fail("unknown exception");
      throw;
    }
  }

  engine::RingPlace place(const AttentionPlan& plan) const {
    return {&plan, config_.shard_layout, /*whole_tensors=*/false, num_threads()};
  }

  /// The one place where indices are looked up, and only through the policy.
  PatternCache::Pattern apply_dilation(const PatternKey& key) const {
    return cache_policy_.dilated_indices(key);
  }

  AttentionPlan make_plan(const CallShape& shape, const std::vector<std::int64_t>& lengths) const {
    return detail::make_plan(config_, shape, lengths,
                             [this](const PatternKey& key) { return apply_dilation(key); });
  }

  AttentionConfig config_;
  Communicator* communicator_;
  CachePolicy cache_policy_;
  mutable std::uint64_t bytes_sent_ = 0;
};

}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
