// What the attention classes over a communicator have in common: collective calls that take and give shards,
// their checks, and pattern lookup.
#pragma once

#include <cstdint>
#include <exception>
#include <ring_attention/attention/agreement_fields.hpp>
#include <ring_attention/attention/interface.hpp>
#include <ring_attention/cpu/key_exchange.hpp>
#include <ring_attention/kernel/choice.hpp>
#include <ring_attention/options.hpp>
#include <ring_attention/plan/plan_report.hpp>
#include <ring_attention/ring/agreement.hpp>
#include <ring_attention/ring/communicator.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {

/// Calls of an attention class over a sequence that is spread over the ranks of a communicator. `Derived`
/// says what is computed, by `plan_call(shape, lengths)`, and checks a call beyond its shapes, by
/// `check_call(shape)`; `attention_kind` is its name in errors.
///
/// Rank p holds the rows of its tokens (`shard_ranges(n)`) of q, k and v, in order, and gets the same rows of
/// the output; memory per rank is O(n / P), and with block lists, which every rank has of the whole sequence,
/// O(active blocks) more. Only key/value rows that a remote query can see travel.
///
/// Constructor and calls are collective: every rank makes them in the same order. Configuration and shapes
/// are compared before data moves; where they are invalid or differ, every rank throws std::invalid_argument
/// that names the rank and the field; so it does where ranks call objects of different configurations. When a
/// rank throws later, the others throw MemberFailed; when one does not answer within the communicator's
/// timeout, PeerLost. One call at a time.
///
/// Shapes on a rank with m tokens: q, out and grad_out [b, m, h, d]; k and v [b, m, h_kv, d]; lse {b, h, m,
/// 1}. `lengths` counts tokens of the whole sequence and is the same on every rank.
template <class Derived, typename Scalar, typename Communicator, typename CachePolicy>
class ShardAttention {
  static_assert(AttentionScalar<Scalar>, "Scalar must be float, double, Eigen::half or Eigen::bfloat16");
  static_assert(RingCommunicator<Communicator>,
                "Communicator must offer rank, size, all_gather, fail, and either send, receive and wait for "
                "buffers, or messages: see ring_attention/ring/communicator.hpp");
  static_assert(detail::is_cache_policy<CachePolicy>());

 public:
  using Accumulator = accumulator_t<Scalar>;       ///< type of the log-sum-exp
  using Input = TensorView<const Scalar>;          ///< a tensor that is read
  using Output = TensorView<Scalar>;               ///< a tensor that is written
  using LseInput = TensorView<const Accumulator>;  ///< a log-sum-exp that is read
  using LseOutput = TensorView<Accumulator>;       ///< a log-sum-exp that is written

  /// As given to the constructor, with the ring size of the communicator.
  const AttentionConfig& config() const { return config_; }
  const CachePolicy& cache_policy() const { return cache_policy_; }  ///< as given to the constructor

  /// Tokens that each rank owns, in the order of its shard's rows.
  std::vector<std::vector<TokenRange>> shard_ranges(std::int64_t total_sequence_length) const {
    return ring_attention::shard_ranges(total_sequence_length, config_.ring_size, config_.shard_layout);
  }

  /// What a forward call of this shape would compute and send. Not collective. Throws std::invalid_argument
  /// for a negative length, heads that are not positive, or heads that are no multiple of kv_heads.
  PlanReport plan_report(std::int64_t total_sequence_length, std::int64_t heads,
                         std::int64_t kv_heads) const {
    const CallShape shape = detail::report_shape(total_sequence_length, heads, kv_heads);
    return detail::report_plan(derived().plan_call(shape, {}).plan, config_.shard_layout);
  }

  /// Payload of all messages of this rank's successful calls, in bytes.
  std::uint64_t bytes_sent() const { return bytes_sent_; }

  /// The attention of the rank's own queries, [b, m, h, d]. Collective; for shapes and errors see
  /// ShardAttention.
  Tensor<Scalar> forward(Input q, Input k, Input v, std::int64_t total_sequence_length,
                         const ForwardOptions& options = {}) const {
    return forward(Context(), q, k, v, total_sequence_length, options);
  }
  /// The same in a context.
  Tensor<Scalar> forward(const Context& context, Input q, Input k, Input v,
                         std::int64_t total_sequence_length, const ForwardOptions& options = {}) const {
    return run_owning_forward(context, q, k, v, total_sequence_length, options, false).out;
  }

  /// Writes into the caller's tensor [b, m, h, d]. Collective.
  void forward(Input q, Input k, Input v, Output out, std::int64_t total_sequence_length,
               const ForwardOptions& options = {}) const {
    forward(Context(), q, k, v, out, total_sequence_length, options);
  }
  /// The same in a context.
  void forward(const Context& context, Input q, Input k, Input v, Output out,
               std::int64_t total_sequence_length, const ForwardOptions& options = {}) const {
    run_forward_into(context, {q, k, v, out, {}}, total_sequence_length, options);
  }

  /// Writes output and log-sum-exp {b, h, m, 1} into the caller's tensors. Collective.
  void forward(Input q, Input k, Input v, Output out, LseOutput lse, std::int64_t total_sequence_length,
               const ForwardOptions& options = {}) const {
    forward(Context(), q, k, v, out, lse, total_sequence_length, options);
  }
  /// The same in a context.
  void forward(const Context& context, Input q, Input k, Input v, Output out, LseOutput lse,
               std::int64_t total_sequence_length, const ForwardOptions& options = {}) const {
    run_forward_into(context, {q, k, v, out, lse}, total_sequence_length, options, true);
  }

  /// Output [b, m, h, d] and log-sum-exp {b, h, m, 1} of the rank's own queries. Collective.
  AttentionResult<Scalar> forward_with_lse(Input q, Input k, Input v, std::int64_t total_sequence_length,
                                           const ForwardOptions& options = {}) const {
    return forward_with_lse(Context(), q, k, v, total_sequence_length, options);
  }
  /// The same in a context.
  AttentionResult<Scalar> forward_with_lse(const Context& context, Input q, Input k, Input v,
                                           std::int64_t total_sequence_length,
                                           const ForwardOptions& options = {}) const {
    return run_owning_forward(context, q, k, v, total_sequence_length, options, true);
  }

  /// Gradients of the rank's own rows; see WholeTensorAttention::backward. Collective.
  Gradients<Scalar> backward(Input q, Input k, Input v, const AttentionResult<Scalar>& result, Input grad_out,
                             std::int64_t total_sequence_length, const BackwardOptions& options = {}) const {
    return backward(Context(), q, k, v, result, grad_out, total_sequence_length, options);
  }
  /// The same in a context.
  Gradients<Scalar> backward(const Context& context, Input q, Input k, Input v,
                             const AttentionResult<Scalar>& result, Input grad_out,
                             std::int64_t total_sequence_length, const BackwardOptions& options = {}) const {
    Gradients<Scalar> grads;
    const auto make = [&] {
      grads = {Tensor<Scalar>(q.shape(), detail::Uninitialized{}),
               Tensor<Scalar>(k.shape(), detail::Uninitialized{}),
               Tensor<Scalar>(v.shape(), detail::Uninitialized{})};
      return GradientViews<Scalar>{grads.q, grads.k, grads.v};
    };
    run_backward(
        context, {q, k, v, result.out, grad_out, result.lse, {}}, total_sequence_length, options,
        [](const auto& tensors) { detail::check_saved(tensors, "result.out", "result.lse"); }, make);
    return grads;
  }

  /// Overwrites the caller's tensors, which need not hold zeros. Collective.
  void backward(Input q, Input k, Input v, Input out, LseInput lse, Input grad_out,
                const GradientViews<Scalar>& grads, std::int64_t total_sequence_length,
                const BackwardOptions& options = {}) const {
    backward(Context(), q, k, v, out, lse, grad_out, grads, total_sequence_length, options);
  }
  /// The same in a context.
  void backward(const Context& context, Input q, Input k, Input v, Input out, LseInput lse, Input grad_out,
                const GradientViews<Scalar>& grads, std::int64_t total_sequence_length,
                const BackwardOptions& options = {}) const {
    const auto gradients = [&grads](const detail::BackwardTensors<Scalar>& tensors) {
      detail::check_saved(tensors, "out", "lse");
      detail::check_gradients(tensors, grads);
    };
    run_backward(context, {q, k, v, out, grad_out, lse, {}}, total_sequence_length, options, gradients,
                 [&grads] { return grads; });
  }

 protected:
  /// `more_fields()` throws where something of the derived class is invalid, else returns what must be equal
  /// on every rank.
  template <class MoreFields>
  ShardAttention(AttentionConfig config, Communicator& communicator, CachePolicy cache_policy,
                 const MoreFields& more_fields)
      : config_(std::move(config)), communicator_(&communicator), cache_policy_(std::move(cache_policy)) {
    detail::require_agreement(communicator, [&] {
      config_.validate();
      if (config_.ring_size != 1 && config_.ring_size != communicator.size()) {
        detail::throw_invalid("ring_size", config_.ring_size,
                              "must be 1 or the number of ranks, " + std::to_string(communicator.size()));
      }
      const detail::AgreementFields more = more_fields();
      detail::AgreementFields fields = detail::agreement_fields(config_);
      fields.insert(fields.begin(), {"attention", Derived::attention_kind});
      fields.insert(fields.end(), more.begin(), more.end());
      agreed_ = detail::summary_of(Derived::attention_kind, fields);
      return fields;
    });
    config_.ring_size = communicator.size();
  }

  /// The one place where indices are looked up, and only through the policy.
  PatternCache::Pattern apply_dilation(const PatternKey& key) const {
    if constexpr (requires { communicator_->dilated_indices(key); }) {
      const auto make = [this](const PatternKey& missing) { return communicator_->dilated_indices(missing); };
      if constexpr (requires { cache_policy_.dilated_indices(key, make); }) {
        return cache_policy_.dilated_indices(key, make);
      }
    }
    return cache_policy_.dilated_indices(key);
  }

 private:
  AttentionResult<Scalar> run_owning_forward(const Context& context, const Input& q, const Input& k,
                                             const Input& v, std::int64_t total,
                                             const ForwardOptions& options, bool with_lse) const {
    AttentionResult<Scalar> result;
    const auto make = [&]() -> detail::ForwardTensors<Scalar> {
      result.out = Tensor<Scalar>(q.shape(), detail::Uninitialized{});
      if (with_lse) result.lse = Tensor<Accumulator>(detail::lse_shape(q.shape()), detail::Uninitialized{});
      return {q, k, v, result.out, result.lse};
    };
    run_forward(
        context, {q, k, v, {}, {}}, total, options, [] {}, make);
    return result;
  }

  void run_forward_into(const Context& context, const detail::ForwardTensors<Scalar>& tensors,
                        std::int64_t total, const ForwardOptions& options, bool with_lse = false) const {
    const auto outputs = [&tensors, with_lse] { detail::check_outputs(tensors, with_lse); };
    run_forward(context, tensors, total, options, outputs, [&tensors] { return tensors; });
  }

  /// `make()` gives the tensors once the ranks agree; where it throws, the others hear of it.
  template <class Check, class Make>
  void run_forward(const Context& context, const detail::ForwardTensors<Scalar>& arguments,
                   std::int64_t total, const ForwardOptions& options, const Check& more_checks,
                   const Make& make) const {
    engine::ForwardExecution<Scalar> execution{};
    const CallShape shape = agree("forward", context, execution, arguments.q, arguments.k, arguments.v, total,
                                  options.lengths, more_checks);
    detail::tell_failure(*communicator_, [&] {
      const detail::ForwardTensors<Scalar> tensors = make();
      if (shape.batch == 0 || shape.tokens == 0) return;
      const detail::PlannedCall call = derived().plan_call(shape, options.lengths);
      bytes_sent_ += engine::forward_ring(place(call.plan), *communicator_, tensors, execution);
    });
  }

  template <class Check, class Make>
  void run_backward(const Context& context, detail::BackwardTensors<Scalar> tensors, std::int64_t total,
                    const BackwardOptions& options, const Check& more_checks, const Make& make) const {
    engine::BackwardExecution<Scalar> execution{};
    const CallShape shape =
        agree("backward", context, execution, tensors.q, tensors.k, tensors.v, total, options.lengths, [&] {
          tensors.grad_lse =
              detail::checked_grad_lse<Accumulator>(options, detail::lse_shape(tensors.q.shape()));
          more_checks(tensors);
        });
    detail::tell_failure(*communicator_, [&] {
      const GradientViews<Scalar> grads = make();
      if (shape.batch == 0 || shape.tokens == 0) return;
      const detail::PlannedCall call = derived().plan_call(shape, options.lengths);
      bytes_sent_ += engine::backward_ring(place(call.plan), *communicator_, tensors, grads, execution);
    });
  }

  /// Checks a call's arguments on every rank together; returns the shape of the whole call.
  template <class Kernel, class MoreChecks>
  CallShape agree(const char* call, const Context& context, engine::Execution<Kernel>& execution,
                  const Input& q, const Input& k, const Input& v, std::int64_t total,
                  const std::vector<std::int64_t>& lengths, const MoreChecks& more_checks) const {
    CallShape shape;
    detail::require_agreement(*communicator_, [&] {
      if (total < 0) detail::throw_invalid("total_sequence_length", total, "must not be negative");
      shape = detail::check_inputs(q, k, v);
      const std::int64_t own =
          detail::member_tokens(total, config_.ring_size, config_.shard_layout, communicator_->rank()).size();
      if (shape.tokens != own) {
        detail::throw_invalid("q shape", to_string(q.shape()),
                              "rank " + std::to_string(communicator_->rank()) + " of " +
                                  std::to_string(config_.ring_size) + " holds the shard of " +
                                  std::to_string(own) + " out of " + std::to_string(total) +
                                  " tokens; whole tensors are for the classes without a communicator");
      }
      more_checks();
      shape.tokens = total;
      detail::check_lengths(shape, lengths);
      derived().check_call(shape);
      execution = engine::execution_of<Kernel>(context);
      detail::require_threads(*communicator_, execution.threads);
      detail::AgreementFields fields = detail::agreement_fields(shape, total, lengths);
      // First: ranks that call different objects should read that, not in what else their calls differ.
      fields.insert(fields.begin(), {"configuration of the called object", agreed_});
      fields.emplace_back("call", call);
      fields.emplace_back("Scalar",
                          std::to_string(sizeof(Scalar)) + (std::is_same_v<Scalar, Eigen::half> ? "h" : ""));
      return fields;
    });
    return shape;
  }

  engine::RingPlace place(const AttentionPlan& plan) const {
    return {&plan, config_.shard_layout, communicator_->rank(), /*whole_tensors=*/false};
  }

  const Derived& derived() const { return static_cast<const Derived&>(*this); }

  AttentionConfig config_;
  Communicator* communicator_;
  CachePolicy cache_policy_;
  std::string agreed_;  // what the ranks agreed on when this object was made, in short
  mutable std::uint64_t bytes_sent_ = 0;
};

}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
