// A ring whose exchange is turned off: a member computes as if messages arrived at once, and nothing is sent.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <ring_attention/aligned_block.hpp>
#include <ring_attention/ring/communicator.hpp>
#include <span>
#include <string>
#include <vector>

namespace benchmarks {

namespace ra = ring_attention;

/// Messages that arrive hold `contents` over and over, in memory of the member's own: results are wrong, but
/// finite and the same in every call, and the work is that of real ones. Memory stays from call to call. What
/// is compared before a call still is, over `communicator`.
template <ra::RingCommunicator Communicator>
class ExchangeOff {
  struct Memory {
    explicit Memory(std::size_t size) : bytes(block.reserve(size), size) {}
    ra::detail::Block block;
    std::span<std::byte> bytes;
  };

  class Place {
   protected:
    friend class ExchangeOff;
    std::span<std::byte> place() const {
      return memory_ ? memory_->bytes.first(size_) : std::span<std::byte>();
    }
    std::shared_ptr<Memory> memory_;
    std::size_t size_ = 0;
  };

 public:
  struct Outgoing : Place {
    std::span<std::byte> bytes() { return this->place(); }
  };
  struct Incoming : Place {
    std::span<const std::byte> bytes() const { return this->place(); }
  };

  /// Both must outlive this object; `contents` must not be empty.
  ExchangeOff(Communicator& communicator, std::span<const std::byte> contents)
      : communicator_(&communicator), contents_(contents) {}

  int rank() const { return communicator_->rank(); }
  int size() const { return communicator_->size(); }

  void prepare(Outgoing& message, int, int, std::size_t bytes) {
    if (!message.memory_ || message.memory_->bytes.size() < bytes) message.memory_ = idle_memory(bytes);
    message.size_ = bytes;
  }
  void send(Outgoing&) {}
  void wait(Outgoing&) {}
  void expect(Incoming& message, int, int, std::size_t bytes) {
    if (!arrived_ || arrived_->bytes.size() < bytes) {
      arrived_ = std::make_shared<Memory>(bytes);
      std::span<std::byte> rest = arrived_->bytes;
      while (!rest.empty()) {
        const std::size_t count = std::min(rest.size(), contents_.size());
        std::copy_n(contents_.begin(), count, rest.begin());
        rest = rest.subspan(count);
      }
    }
    message.memory_ = arrived_;
    message.size_ = bytes;
  }
  void wait(Incoming&) {}
  void release(Incoming&) {}

  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) {
    return communicator_->all_gather(mine);
  }
  void fail(const std::string& reason, ra::Failure failure) { communicator_->fail(reason, failure); }

 private:
  /// Memory that no message holds any more, or new.
  std::shared_ptr<Memory> idle_memory(std::size_t bytes) {
    for (const std::shared_ptr<Memory>& memory : outgoing_) {
      if (memory.use_count() == 1 && memory->bytes.size() >= bytes) return memory;
    }
    return outgoing_.emplace_back(std::make_shared<Memory>(bytes));
  }

  Communicator* communicator_;
  std::span<const std::byte> contents_;
  std::vector<std::shared_ptr<Memory>> outgoing_;
  std::shared_ptr<Memory> arrived_;
};

}  // namespace benchmarks
