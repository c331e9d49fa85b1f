// The messages of a call without its computing: recorded while a call runs, and moved again from a list.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <map>
#include <ring_attention/ring/communicator.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace benchmarks {

namespace ra = ring_attention;

/// One call of a communicator. Requests are numbered in the order of their starts, buffers in that of their
/// first use.
struct MessageEvent {
  enum class Kind { send, receive, wait } kind;
  std::size_t request;
  std::size_t buffer = 0;
  int peer = 0;
  int tag = 0;
  std::size_t bytes = 0;
};

/// Passes everything on to `communicator` and remembers what a member sent, received and waited for.
template <ra::RingCommunicator Communicator>
class RecordingRing {
 public:
  class Request {
   private:
    friend class RecordingRing;
    static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();
    typename Communicator::Request inner_{};
    std::size_t number_ = none;
  };

  explicit RecordingRing(Communicator& communicator) : communicator_(&communicator) {}

  const std::vector<MessageEvent>& events() const { return events_; }

  int rank() const { return communicator_->rank(); }
  int size() const { return communicator_->size(); }
  Request send(int peer, int tag, std::span<const std::byte> buffer) {
    return record(MessageEvent::Kind::send, peer, tag, buffer, communicator_->send(peer, tag, buffer));
  }
  Request receive(int peer, int tag, std::span<std::byte> buffer) {
    return record(MessageEvent::Kind::receive, peer, tag, buffer, communicator_->receive(peer, tag, buffer));
  }
  void wait(Request& request) {
    communicator_->wait(request.inner_);
    if (request.number_ == Request::none) return;
    events_.push_back({MessageEvent::Kind::wait, std::exchange(request.number_, Request::none)});
  }
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) {
    return communicator_->all_gather(mine);
  }
  void fail(const std::string& reason, ra::Failure failure) { communicator_->fail(reason, failure); }
  void progress() { ra::detail::make_progress(*communicator_); }

 private:
  Request record(MessageEvent::Kind kind, int peer, int tag, std::span<const std::byte> buffer,
                 typename Communicator::Request inner) {
    // Buffers are told apart by their memory, which the engine uses again when it may.
    const std::size_t number = buffers_.try_emplace(buffer.data(), buffers_.size()).first->second;
    events_.push_back({kind, requests_, number, peer, tag, buffer.size()});
    Request request;
    request.inner_ = std::move(inner);
    request.number_ = requests_++;
    return request;
  }

  Communicator* communicator_;
  std::vector<MessageEvent> events_;
  std::map<const std::byte*, std::size_t> buffers_;
  std::size_t requests_ = 0;
};

/// Moves recorded messages, in the recorded order, from and to buffers of its own.
class MessageReplay {
 public:
  explicit MessageReplay(std::vector<MessageEvent> events) : events_(std::move(events)) {
    for (const MessageEvent& event : events_) {
      if (event.kind == MessageEvent::Kind::wait) continue;
      requests_ = std::max(requests_, event.request + 1);
      if (event.buffer >= buffers_.size()) buffers_.resize(event.buffer + 1);
      std::vector<std::byte>& buffer = buffers_[event.buffer];
      buffer.resize(std::max(buffer.size(), event.bytes));
    }
  }

  std::size_t messages_sent() const {
    return static_cast<std::size_t>(
        std::ranges::count(events_, MessageEvent::Kind::send, &MessageEvent::kind));
  }

  /// Collective: every member replays the same call.
  template <ra::RingCommunicator Communicator>
  void run(Communicator& communicator) {
    std::vector<typename Communicator::Request> requests(requests_);
    for (const MessageEvent& event : events_) {
      typename Communicator::Request& request = requests[event.request];
      if (event.kind == MessageEvent::Kind::wait) {
        communicator.wait(request);
        continue;
      }
      const std::span<std::byte> buffer(buffers_[event.buffer].data(), event.bytes);
      request = event.kind == MessageEvent::Kind::send ? communicator.send(event.peer, event.tag, buffer)
                                                       : communicator.receive(event.peer, event.tag, buffer);
    }
  }

 private:
  std::vector<MessageEvent> events_;
  std::vector<std::vector<std::byte>> buffers_;
  std::size_t requests_ = 0;
};

}  // namespace benchmarks
