// A communicator whose exchange can be turned off, and that can repeat the messages of a call without its
// computing.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <ring_attention/ring_attention.hpp>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace benchmarks {

namespace ra = ring_attention;

/// Passes everything on to `communicator`, another transport of messages.
template <ra::RingCommunicator Communicator>
requires ra::MessageTransport<Communicator>
class SwitchedRing {
  using Memory = std::shared_ptr<ra::Tensor<float>>;  // aligned as messages must be

  /// A place for messages, or memory in place of it while the exchange is off.
  template <class Inner>
  struct Place {
    Inner inner;
    Memory idle;
    std::size_t idle_size = 0;
    std::span<std::byte> idle_bytes() const {
      return std::as_writable_bytes(std::span(idle->data(), static_cast<std::size_t>(idle->size())))
          .first(idle_size);
    }
  };

  /// One call of the communicator. Places are numbered, each way, in the order of their first use.
  struct Event {
    enum Kind { prepare, send, wait_out, expect, wait_in, release } kind;
    std::size_t place;
    int peer, tag;
    std::size_t bytes;
  };

 public:
  enum class Mode {
    on,
    record,  ///< on, and remembers what the member sends, receives and waits for
    off      ///< nothing is sent and all messages arrive at once
  };

  struct Outgoing : Place<typename Communicator::Outgoing> {
    std::span<std::byte> bytes() { return this->idle ? this->idle_bytes() : this->inner.bytes(); }
  };
  struct Incoming : Place<typename Communicator::Incoming> {
    std::span<const std::byte> bytes() const { return this->idle ? this->idle_bytes() : this->inner.bytes(); }
  };

  /// While the exchange is off, messages that arrive hold `contents` over and over: results are wrong, but
  /// finite and the same in every call, and the work is that of real ones. What is compared before a call
  /// still is. Both must outlive this object.
  SwitchedRing(Communicator& communicator, std::span<const float> contents)
      : communicator_(&communicator), contents_(contents) {}

  void set_mode(Mode mode) { mode_ = mode; }

  int rank() const { return communicator_->rank(); }
  int size() const { return communicator_->size(); }

  void prepare(Outgoing& message, int peer, int tag, std::size_t bytes) {
    message.idle_size = bytes;
    message.idle = mode_ == Mode::off ? idle_memory(bytes) : nullptr;
    if (message.idle) return;
    communicator_->prepare(message.inner, peer, tag, bytes);
    note(Event::prepare, message, peer, tag, bytes);
  }
  void send(Outgoing& message) {
    if (message.idle) return;
    communicator_->send(message.inner);
    note(Event::send, message);
  }
  void wait(Outgoing& message) {
    if (message.idle) return;
    communicator_->wait(message.inner);
    note(Event::wait_out, message);
  }
  void expect(Incoming& message, int peer, int tag, std::size_t bytes) {
    message.idle_size = bytes;
    message.idle = mode_ == Mode::off ? arrived_memory(bytes) : nullptr;
    if (message.idle) return;
    communicator_->expect(message.inner, peer, tag, bytes);
    note(Event::expect, message, peer, tag, bytes);
  }
  void wait(Incoming& message) {
    if (message.idle) return;
    communicator_->wait(message.inner);
    note(Event::wait_in, message);
  }
  void release(Incoming& message) {
    if (message.idle) return;
    communicator_->release(message.inner);
    note(Event::release, message);
  }
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) {
    return communicator_->all_gather(mine);
  }
  void fail(const std::string& reason, ra::Failure failure) { communicator_->fail(reason, failure); }
  void progress() { communicator_->progress(); }

  std::size_t messages_sent() const {  ///< by the recorded call
    return static_cast<std::size_t>(std::ranges::count(events_, Event::send, &Event::kind));
  }

  /// Collective: moves the recorded messages in the recorded order; their bytes are whatever their memory
  /// holds.
  void replay() {
    std::deque<typename Communicator::Outgoing> outgoing(outgoing_.size());
    std::deque<typename Communicator::Incoming> incoming(incoming_.size());
    for (const auto& [kind, place, peer, tag, bytes] : events_) {
      switch (kind) {
        case Event::prepare:
          communicator_->prepare(outgoing[place], peer, tag, bytes);
          break;
        case Event::send:
          communicator_->send(outgoing[place]);
          break;
        case Event::wait_out:
          communicator_->wait(outgoing[place]);
          break;
        case Event::expect:
          communicator_->expect(incoming[place], peer, tag, bytes);
          break;
        case Event::wait_in:
          communicator_->wait(incoming[place]);
          break;
        case Event::release:
          communicator_->release(incoming[place]);
          break;
      }
    }
  }

 private:
  template <class Message>
  void note(typename Event::Kind kind, const Message& message, int peer = 0, int tag = 0,
            std::size_t bytes = 0) {
    if (mode_ != Mode::record) return;
    auto& places = std::is_same_v<Message, Outgoing> ? outgoing_ : incoming_;
    events_.push_back({kind, places.try_emplace(&message, places.size()).first->second, peer, tag, bytes});
  }

  static Memory make_memory(std::size_t bytes) {
    return std::make_shared<ra::Tensor<float>>(1, 1, 1, static_cast<std::int64_t>((bytes + 3) / 4));
  }
  static bool holds(const Memory& memory, std::size_t bytes) {
    return memory && static_cast<std::size_t>(memory->size()) * sizeof(float) >= bytes;
  }

  /// Memory that no message holds any more, or new. It stays from call to call.
  Memory idle_memory(std::size_t bytes) {
    for (const Memory& memory : idle_) {
      if (memory.use_count() == 1 && holds(memory, bytes)) return memory;
    }
    return idle_.emplace_back(make_memory(bytes));
  }

  Memory arrived_memory(std::size_t bytes) {
    if (!holds(arrived_, bytes)) {
      arrived_ = make_memory(bytes);
      for (std::int64_t i = 0; i < arrived_->size(); ++i) {
        arrived_->data()[i] = contents_[static_cast<std::size_t>(i) % contents_.size()];
      }
    }
    return arrived_;
  }

  Communicator* communicator_;
  std::span<const float> contents_;
  Mode mode_ = Mode::on;
  std::vector<Event> events_;
  std::map<const void*, std::size_t> outgoing_, incoming_;  ///< numbers of places
  std::vector<Memory> idle_;
  Memory arrived_;
};

}  // namespace benchmarks
