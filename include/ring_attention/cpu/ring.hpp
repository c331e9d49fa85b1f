// A ring member's passes, step by step: what it computes with its own keys and with those of a message. Who
// carries the messages is not its business (key_exchange.hpp).
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <ring_attention/config.hpp>
#include <ring_attention/cpu/backward_arguments.hpp>
#include <ring_attention/cpu/forward_arguments.hpp>
#include <ring_attention/cpu/key_message.hpp>
#include <ring_attention/gradient_views.hpp>
#include <ring_attention/kernel/execution.hpp>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/plan/shards.hpp>
#include <ring_attention/ring/communicator.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Where a member stands: the plan of the whole call, and who owns what.
struct RingPlace {
  const AttentionPlan* plan;
  ShardLayout layout;
  int rank;
  // The member's tensors hold the whole sequence, as those of TrueRingDilatedAttention do.
  bool whole_tensors;

  detail::MemberTokens tokens(std::int64_t member) const {
    return detail::member_tokens(plan->shape.tokens, plan->ring_size, layout, member);
  }
  /// Rows of the member's tensors.
  detail::TokenRows rows() const { return whole_tensors ? detail::TokenRows() : tokens(rank).rows; }
};

/// What the thread that made the call does between two tiles: lets its communicator move messages.
class Progress {
 public:
  template <class Communicator>
  requires(!std::same_as<Communicator, Progress>) explicit Progress(Communicator& communicator)
      : communicator_(&communicator),
        make_([](void* made_with) { detail::make_progress(*static_cast<Communicator*>(made_with)); }) {}

  void operator()() const { make_(communicator_); }

 private:
  void* communicator_;
  void (*make_)(void*);
};

/// Forward: the queries are the member's own, and stay. Memory is O(n / P): the states of its own rows.
template <class Scalar>
class RingForward {
 public:
  RingForward(const RingPlace& place, const detail::ForwardTensors<Scalar>& tensors,
              const ForwardExecution<Scalar>& execution, const Progress& progress);
  ~RingForward();
  RingForward(const RingForward&) = delete;
  RingForward& operator=(const RingForward&) = delete;

  /// First of all.
  void meet_own_keys();
  void meet(const KeyMessage<const Scalar>& message);
  /// Writes outputs and log-sum-exp.
  void finish();

 private:
  struct Member;
  std::unique_ptr<Member> member_;
};

/// Backward: gradients of the member's own queries are summed up where they are, gradients of its keys come
/// from every member that met them.
template <class Scalar>
class RingBackward {
  using T = accumulator_t<Scalar>;

 public:
  RingBackward(const RingPlace& place, const detail::BackwardTensors<Scalar>& tensors,
               const BackwardExecution<Scalar>& execution, const Progress& progress);
  ~RingBackward();
  RingBackward(const RingBackward&) = delete;
  RingBackward& operator=(const RingBackward&) = delete;

  /// Detached mixing, before any gradient: the sums of P and of P * dP of every branch, for its delta.
  void sum_own_keys();
  void sum(const KeyMessage<const Scalar>& message);

  /// After the sums.
  void begin_gradients();
  void accumulate_own_keys();
  /// Writes the gradients of the message's keys to `home`.
  void accumulate(const KeyMessage<const Scalar>& message, const KeyMessage<T>& home);
  /// Adds gradients of the member's own keys that came home.
  void add_gradients(const KeyMessage<const T>& gradients);
  void write(const GradientViews<Scalar>& grads);

 private:
  struct Member;
  std::unique_ptr<Member> member_;
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention

#if RING_ATTENTION_DEFINES_ENGINE
#include <ring_attention/cpu/ring_backward.hpp>
#include <ring_attention/cpu/ring_forward.hpp>
#endif
