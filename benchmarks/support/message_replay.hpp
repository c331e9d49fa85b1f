// The messages of a call without its computing: recorded while a call runs, and moved again from a list.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <map>
#include <ring_attention/ring/communicator.hpp>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace benchmarks {

namespace ra = ring_attention;

/// One call of a communicator. Places for messages are numbered, each way, in the order of their first use.
struct MessageEvent {
  enum class Kind { prepare, send, wait_out, expect, wait_in, release } kind;
  std::size_t place;
  int peer = 0;
  int tag = 0;
  std::size_t bytes = 0;
};

/// Passes everything on to `communicator` and remembers what a member sent, received and waited for.
template <ra::RingCommunicator Communicator>
requires ra::MessageTransport<Communicator>
class RecordingRing {
  using Kind = MessageEvent::Kind;

 public:
  struct Outgoing {
    typename Communicator::Outgoing inner;
    std::span<std::byte> bytes() { return inner.bytes(); }
  };
  struct Incoming {
    typename Communicator::Incoming inner;
    std::span<const std::byte> bytes() const { return inner.bytes(); }
  };

  explicit RecordingRing(Communicator& communicator) : communicator_(&communicator) {}

  const std::vector<MessageEvent>& events() const { return events_; }

  int rank() const { return communicator_->rank(); }
  int size() const { return communicator_->size(); }

  void prepare(Outgoing& message, int peer, int tag, std::size_t bytes) {
    communicator_->prepare(message.inner, peer, tag, bytes);
    record(Kind::prepare, message, peer, tag, bytes);
  }
  void send(Outgoing& message) {
    communicator_->send(message.inner);
    record(Kind::send, message);
  }
  void wait(Outgoing& message) {
    communicator_->wait(message.inner);
    record(Kind::wait_out, message);
  }
  void expect(Incoming& message, int peer, int tag, std::size_t bytes) {
    communicator_->expect(message.inner, peer, tag, bytes);
    record(Kind::expect, message, peer, tag, bytes);
  }
  void wait(Incoming& message) {
    communicator_->wait(message.inner);
    record(Kind::wait_in, message);
  }
  void release(Incoming& message) {
    communicator_->release(message.inner);
    record(Kind::release, message);
  }

  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) {
    return communicator_->all_gather(mine);
  }
  void fail(const std::string& reason, ra::Failure failure) { communicator_->fail(reason, failure); }
  void progress() { ra::detail::make_progress(*communicator_); }

 private:
  template <class Message>
  void record(Kind kind, const Message& message, int peer = 0, int tag = 0, std::size_t bytes = 0) {
    std::map<const void*, std::size_t>& places = std::is_same_v<Message, Outgoing> ? outgoing_ : incoming_;
    events_.push_back({kind, places.try_emplace(&message, places.size()).first->second, peer, tag, bytes});
  }

  Communicator* communicator_;
  std::vector<MessageEvent> events_;
  std::map<const void*, std::size_t> outgoing_, incoming_;
};

/// Moves recorded messages in the recorded order; their bytes are whatever their memory holds.
class MessageReplay {
  using Kind = MessageEvent::Kind;

 public:
  explicit MessageReplay(std::vector<MessageEvent> events) : events_(std::move(events)) {}

  std::size_t messages_sent() const {
    return static_cast<std::size_t>(std::ranges::count(events_, Kind::send, &MessageEvent::kind));
  }

  /// Collective: every member replays the same call.
  template <ra::RingCommunicator Communicator>
  void run(Communicator& communicator) const {
    std::deque<typename Communicator::Outgoing> outgoing;
    std::deque<typename Communicator::Incoming> incoming;
    for (const MessageEvent& event : events_) {
      const bool out =
          event.kind == Kind::prepare || event.kind == Kind::send || event.kind == Kind::wait_out;
      while (out && outgoing.size() <= event.place) outgoing.emplace_back();
      while (!out && incoming.size() <= event.place) incoming.emplace_back();
      switch (event.kind) {
        case Kind::prepare:
          communicator.prepare(outgoing[event.place], event.peer, event.tag, event.bytes);
          break;
        case Kind::send:
          communicator.send(outgoing[event.place]);
          break;
        case Kind::wait_out:
          communicator.wait(outgoing[event.place]);
          break;
        case Kind::expect:
          communicator.expect(incoming[event.place], event.peer, event.tag, event.bytes);
          break;
        case Kind::wait_in:
          communicator.wait(incoming[event.place]);
          break;
        case Kind::release:
          communicator.release(incoming[event.place]);
          break;
      }
    }
  }

 private:
  std::vector<MessageEvent> events_;
};

}  // namespace benchmarks
