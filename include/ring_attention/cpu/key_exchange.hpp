// The keys that ring members exchange: who sends to whom at which step.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <ring_attention/cpu/ring.hpp>
#include <ring_attention/plan/shards.hpp>
#include <ring_attention/plan/transfer.hpp>
#include <ring_attention/ring/communicator.hpp>
#include <ring_attention/ring/messages.hpp>
#include <ring_attention/tensor.hpp>
#include <ring_attention/version.hpp>
#include <span>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// How far before it the member is whose keys a member meets at a step, and how far after it the one that
/// meets its own: 0, 1, P - 1, 2, P - 2, ... Near members share the most segments; were the ring walked in
/// one direction, the ends of a segment over some of the members would wait for one another in turn.
inline int distance_of_step(int step, int size) { return step % 2 != 0 ? (step + 1) / 2 : size - step / 2; }

/// The member `steps` after `rank`, or before it where negative.
inline int member_after(int rank, int steps, int size) { return (rank + steps + size) % size; }

/// How many steps ahead a member sends its keys. Where segments span some of the shards, members have nothing
/// to compute at different steps; with one step of look-ahead those that were ahead waited for the others'
/// next messages (8 members, segments of 4 shards: a quarter of the time). tests/ring/step_order_test.cpp
/// tells who still waits: members of segments that span more shards than that, but not all.
inline constexpr int look_ahead = 2;
/// In backward a member needs gradients of its keys from those that it sends them to, step by step, which
/// keeps members together: to send further ahead would cost memory and save no time.
inline constexpr int backward_look_ahead = 1;

/// The steps of a ring: a member receives from one that is as far before it as the one is after it that it
/// sends to. The messages of the next steps are under way while visit(step, message, out) computes the
/// present one; `message` holds the keys that arrived, none at step 0, `out` names the rows that this member
/// sent. Returns the payload sent, in bytes.
template <int ahead, class Scalar, class Communicator, class Visit>
std::uint64_t exchange_keys(const RingPlace& place, Communicator& communicator, int tag,
                            const TensorView<const Scalar>& k, const TensorView<const Scalar>& v,
                            const Visit& visit) {
  using Place = detail::message_place<Communicator>;
  struct Step {
    detail::Transfer in, out;
    typename Place::Incoming received;
  };
  detail::messages_over<Communicator> messages(communicator);
  const int size = communicator.size();
  const std::int64_t head_dim = place.plan->shape.head_dim;
  const detail::MemberTokens mine = place.tokens(place.rank);
  std::uint64_t bytes = 0;
  std::array<Step, std::size_t{ahead} + 1> steps;  // one to compute with, and those that arrive
  const auto step_at = [&steps](int s) -> Step& { return steps[static_cast<std::size_t>(s) % steps.size()]; };
  // Those of the next steps, and two that slower members may still read. Places go to messages in turn, not
  // to steps: a step without a message leaves a slower member more time.
  std::array<typename Place::Outgoing, std::size_t{ahead} + 2> leaving;
  std::size_t sent = 0;
  const auto start = [&](int s) {
    Step& step = step_at(s);
    const int from = member_after(place.rank, -distance_of_step(s, size), size);
    const int to = member_after(place.rank, distance_of_step(s, size), size);
    step.in = detail::Transfer(*place.plan, place.tokens(from), mine);
    step.out = detail::Transfer(*place.plan, mine, place.tokens(to));
    if (step.in.rows() > 0) {
      messages.expect(step.received, from, tag, KeyMessage<Scalar>::bytes(step.in, head_dim));
    }
    if (step.out.rows() > 0) {
      typename Place::Outgoing& message = leaving[sent++ % leaving.size()];
      messages.prepare(message, to, tag, KeyMessage<Scalar>::bytes(step.out, head_dim));
      pack_keys<Scalar>(k, v, place.rows(), KeyMessage<Scalar>(step.out, message.bytes(), head_dim));
      messages.send(message);
      bytes += message.bytes().size();
    }
  };
  for (int s = 1; s < size && s <= ahead; ++s) start(s);
  detail::tell_step(communicator, 0, size);
  visit(0, KeyMessage<const Scalar>(), detail::Transfer());
  for (int s = 1; s < size; ++s) {
    Step& step = step_at(s);
    messages.wait(step.received);
    if (s + ahead < size) start(s + ahead);
    detail::tell_step(communicator, s, size);
    visit(s, KeyMessage<const Scalar>(step.in, step.received.bytes(), head_dim), step.out);
    messages.release(step.received);
  }
  for (auto& message : leaving) messages.wait(message);
  return bytes;
}

/// Runs a member's forward pass; collective. Returns the payload sent, in bytes.
template <class Scalar, class Communicator>
std::uint64_t forward_ring(const RingPlace& place, Communicator& communicator,
                           const detail::ForwardTensors<Scalar>& tensors,
                           const ForwardExecution<Scalar>& execution) {
  RingForward<Scalar> member(place, tensors, execution, Progress(communicator));
  const std::uint64_t bytes = exchange_keys<look_ahead, Scalar>(
      place, communicator, 0, tensors.k, tensors.v,
      [&member](int step, const KeyMessage<const Scalar>& message, const detail::Transfer&) {
        if (step == 0) {
          member.meet_own_keys();
        } else {
          member.meet(message);
        }
      });
  member.finish();
  return bytes;
}

/// Runs a member's backward pass; collective: keys travel as in forward, and their gradients travel back to
/// the owner in the accumulator type. Writes the gradients of the member's own rows; returns the payload
/// sent, in bytes.
template <class Scalar, class Communicator>
std::uint64_t backward_ring(const RingPlace& place, Communicator& communicator,
                            const detail::BackwardTensors<Scalar>& tensors,
                            const GradientViews<Scalar>& grads, const BackwardExecution<Scalar>& execution) {
  using T = accumulator_t<Scalar>;
  using Place = detail::message_place<Communicator>;
  /// Gradients of the rows of one message on their way home.
  struct Returning {
    detail::Transfer transfer;  // rows of this member that come home
    typename Place::Incoming arriving;
    typename Place::Outgoing leaving;
  };
  detail::messages_over<Communicator> messages(communicator);
  const int size = communicator.size();
  const std::int64_t head_dim = place.plan->shape.head_dim;
  RingBackward<Scalar> member(place, tensors, execution, Progress(communicator));
  std::uint64_t bytes = 0;
  if (place.plan->detached_mix) {
    // The deltas of the branches need all keys before the first gradient: one more round.
    bytes += exchange_keys<look_ahead, Scalar>(
        place, communicator, 1, tensors.k, tensors.v,
        [&member](int step, const KeyMessage<const Scalar>& message, const detail::Transfer&) {
          if (step == 0) {
            member.sum_own_keys();
          } else {
            member.sum(message);
          }
        });
  }
  member.begin_gradients();

  std::array<Returning, 2> returning;
  const auto finish = [&](Returning& home) {
    messages.wait(home.arriving);
    member.add_gradients(KeyMessage<const T>(home.transfer, home.arriving.bytes(), head_dim));
    messages.release(home.arriving);
    home.transfer = detail::Transfer();
    messages.wait(home.leaving);
  };
  bytes += exchange_keys<backward_look_ahead, Scalar>(
      place, communicator, 0, tensors.k, tensors.v,
      [&](int step, const KeyMessage<const Scalar>& message, const detail::Transfer& out) {
        Returning& home = returning[static_cast<std::size_t>(step % 2)];
        finish(home);  // of step - 2, so that gradients are added in the order of the steps
        if (step == 0) return member.accumulate_own_keys();
        const int from = member_after(place.rank, -distance_of_step(step, size), size);
        const int to = member_after(place.rank, distance_of_step(step, size), size);
        const std::size_t gradient_bytes = KeyMessage<T>::bytes(message.transfer(), head_dim);
        if (gradient_bytes > 0) {
          messages.prepare(home.leaving, from, 2, gradient_bytes);
          member.accumulate(message, KeyMessage<T>(message.transfer(), home.leaving.bytes(), head_dim));
        }
        home.transfer = out;
        if (out.rows() > 0) {
          messages.expect(home.arriving, to, 2, KeyMessage<T>::bytes(out, head_dim));
        }
        if (gradient_bytes > 0) {
          messages.send(home.leaving);
          bytes += gradient_bytes;
        }
      });
  for (int step = size > 2 ? size - 2 : 1; step < size; ++step) {
    finish(returning[static_cast<std::size_t>(step % 2)]);
  }
  member.write(grads);
  return bytes;
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
