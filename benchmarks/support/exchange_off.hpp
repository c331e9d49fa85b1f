// A ring whose exchange is turned off: a member computes as if messages arrived at once, and nothing is sent.
#pragma once

#include <algorithm>
#include <cstddef>
#include <ring_attention/ring/communicator.hpp>
#include <span>
#include <string>
#include <vector>

namespace benchmarks {

namespace ra = ring_attention;

/// What is received comes from `contents`, a buffer of the member's own, over and over: results are wrong,
/// but finite and the same in every call, and the work is that of real ones. What is compared before a call
/// still is, over `communicator`.
template <ra::RingCommunicator Communicator>
class ExchangeOff {
 public:
  struct Request {};

  /// Both must outlive this object; `contents` must not be empty.
  ExchangeOff(Communicator& communicator, std::span<const std::byte> contents)
      : communicator_(&communicator), contents_(contents) {}

  int rank() const { return communicator_->rank(); }
  int size() const { return communicator_->size(); }
  Request send(int, int, std::span<const std::byte>) { return {}; }
  Request receive(int, int, std::span<std::byte> buffer) {
    while (!buffer.empty()) {
      const std::size_t count = std::min(buffer.size(), contents_.size());
      std::copy_n(contents_.begin(), count, buffer.begin());
      buffer = buffer.subspan(count);
    }
    return {};
  }
  void wait(Request&) {}
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) {
    return communicator_->all_gather(mine);
  }
  void fail(const std::string& reason, ra::Failure failure) { communicator_->fail(reason, failure); }

 private:
  Communicator* communicator_;
  std::span<const std::byte> contents_;
};

}  // namespace benchmarks
