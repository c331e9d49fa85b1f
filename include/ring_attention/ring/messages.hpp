// Messages between ring members, in memory that the transport chooses: the engine packs a message where it is
// sent from, and reads it where it arrived.
#pragma once

#include <concepts>
#include <cstddef>
#include <ring_attention/aligned_block.hpp>
#include <ring_attention/ring/communicator.hpp>
#include <ring_attention/version.hpp>
#include <span>
#include <type_traits>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Messages over a communicator that moves buffers. An object is one place for messages, used for one after
/// the other; its memory stays for the next. Destroyed early, a message is cancelled.
template <BufferTransport Communicator>
class BufferMessages {
  using Request = typename Communicator::Request;

  class Message {
   public:
    Message() = default;
    Message(const Message&) = delete;
    Message& operator=(const Message&) = delete;

   protected:
    friend class BufferMessages;
    void reset(int peer, int tag, std::size_t bytes) {
      peer_ = peer;
      tag_ = tag;
      bytes_ = {memory_.reserve(bytes), bytes};
    }

    Block memory_;
    std::span<std::byte> bytes_;
    int peer_ = 0, tag_ = 0;
    Request request_{};  // destroyed before the memory that it moves
  };

 public:
  struct Outgoing : Message {
    std::span<std::byte> bytes() { return this->bytes_; }
  };
  struct Incoming : Message {
    std::span<const std::byte> bytes() const { return this->bytes_; }
  };

  explicit BufferMessages(Communicator& communicator) : communicator_(&communicator) {}

  void prepare(Outgoing& message, int peer, int tag, std::size_t bytes) {
    wait(message);
    message.reset(peer, tag, bytes);
  }
  void send(Outgoing& message) {
    message.request_ = communicator_->send(message.peer_, message.tag_, message.bytes_);
  }
  void wait(Outgoing& message) { communicator_->wait(message.request_); }

  void expect(Incoming& message, int peer, int tag, std::size_t bytes) {
    message.reset(peer, tag, bytes);
    message.request_ = communicator_->receive(peer, tag, message.bytes_);
  }
  void wait(Incoming& message) { communicator_->wait(message.request_); }
  void release(Incoming&) {}

 private:
  Communicator* communicator_;
};

/// What the engine sends and receives messages with: the communicator itself, or buffers over it. Made from
/// the communicator.
template <class Communicator>
struct MessagesOver {
  using type = BufferMessages<Communicator>;
};
template <MessageTransport Communicator>
struct MessagesOver<Communicator> {
  using type = Communicator&;
};
template <class Communicator>
using messages_over = typename MessagesOver<Communicator>::type;
template <class Communicator>
using message_place = std::remove_reference_t<messages_over<Communicator>>;

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
