// The keys that ring members exchange: who sends to whom at which step, and how the rows lie in a message.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <ring_attention/config.hpp>
#include <ring_attention/cpu/key_pieces.hpp>
#include <ring_attention/plan/plan.hpp>
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

/// Where a member stands: the plan of the whole call, and who owns what.
struct RingPlace {
  const AttentionPlan* plan;
  ShardLayout layout;
  // The member's tensors hold the whole sequence, as those of TrueRingDilatedAttention do.
  bool whole_tensors;
  int threads;

  detail::MemberTokens tokens(std::int64_t size, std::int64_t member) const {
    return detail::member_tokens(plan->shape.tokens, size, layout, member, whole_tensors);
  }
};

/// A message of keys and values: all key rows, then all value rows, head_dim elements each.
template <class Scalar>
struct KeyMessage {
  const Scalar* data = nullptr;

  static std::size_t bytes(const detail::Transfer& transfer, std::int64_t head_dim) {
    return static_cast<std::size_t>(2 * transfer.rows() * head_dim) * sizeof(Scalar);
  }

  static void pack(const detail::Transfer& transfer, const TensorView<const Scalar>& k,
                   const TensorView<const Scalar>& v, Scalar* keys) {
    const std::int64_t head_dim = k.shape()[3];
    Scalar* values = keys + transfer.rows() * head_dim;
    for (const detail::TransferPiece& piece : transfer.pieces()) {
      for (std::int64_t i = 0; i < piece.tokens.count; ++i) {
        const std::int64_t row = piece.tokens[i] + piece.row_shift;
        keys = std::copy_n(k.row(piece.item, row, piece.kv_head), head_dim, keys);
        values = std::copy_n(v.row(piece.item, row, piece.kv_head), head_dim, values);
      }
    }
  }

  KeyPiece<Scalar> piece(const detail::Transfer& transfer, const detail::TransferPiece& piece,
                         std::int64_t head_dim) const {
    return {piece.tokens,
            {data + piece.first_row * head_dim, head_dim},
            {data + (transfer.rows() + piece.first_row) * head_dim, head_dim}};
  }
};

/// The elements that a message holds.
template <class T>
T* elements(std::span<std::byte> bytes) {
  return reinterpret_cast<T*>(bytes.data());
}
template <class T>
const T* elements(std::span<const std::byte> bytes) {
  return reinterpret_cast<const T*>(bytes.data());
}

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
/// sends to. The messages of the next steps are under way while visit(step, in, message, out) computes the
/// present one; `in` tells the rows of the message, `out` those that this member sent. Returns the payload
/// sent, in bytes.
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
  const int rank = communicator.rank();
  const std::int64_t head_dim = place.plan->shape.head_dim;
  const detail::MemberTokens mine = place.tokens(size, rank);
  std::uint64_t bytes = 0;
  std::array<Step, std::size_t{ahead} + 1> steps;  // one to compute with, and those that arrive
  const auto step_at = [&steps](int s) -> Step& { return steps[static_cast<std::size_t>(s) % steps.size()]; };
  // Those of the next steps, and two that slower members may still read. Places go to messages in turn, not
  // to steps: a step without a message leaves a slower member more time.
  std::array<typename Place::Outgoing, std::size_t{ahead} + 2> leaving;
  std::size_t sent = 0;
  const auto start = [&](int s) {
    Step& step = step_at(s);
    const int from = member_after(rank, -distance_of_step(s, size), size);
    const int to = member_after(rank, distance_of_step(s, size), size);
    step.in = detail::Transfer(*place.plan, place.tokens(size, from), mine);
    step.out = detail::Transfer(*place.plan, mine, place.tokens(size, to));
    if (step.in.rows() > 0) {
      messages.expect(step.received, from, tag, KeyMessage<Scalar>::bytes(step.in, head_dim));
    }
    if (step.out.rows() > 0) {
      typename Place::Outgoing& message = leaving[sent++ % leaving.size()];
      messages.prepare(message, to, tag, KeyMessage<Scalar>::bytes(step.out, head_dim));
      KeyMessage<Scalar>::pack(step.out, k, v, elements<Scalar>(message.bytes()));
      messages.send(message);
      bytes += message.bytes().size();
    }
  };
  for (int s = 1; s < size && s <= ahead; ++s) start(s);
  detail::tell_step(communicator, 0, size);
  visit(0, detail::Transfer(), KeyMessage<Scalar>(), detail::Transfer());
  for (int s = 1; s < size; ++s) {
    Step& step = step_at(s);
    messages.wait(step.received);
    if (s + ahead < size) start(s + ahead);
    detail::tell_step(communicator, s, size);
    visit(s, step.in, KeyMessage<Scalar>{elements<Scalar>(step.received.bytes())}, step.out);
    messages.release(step.received);
  }
  for (auto& message : leaving) messages.wait(message);
  return bytes;
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
