// A member's connection that does something else at one of its operations.
#pragma once

#include <cstddef>
#include <exception>
#include <functional>
#include <ring_attention/ring/thread_communicator.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "support/threads.hpp"

namespace test {

namespace ra = ring_attention;

class FaultyCommunicator {
 public:
  using Request = ra::ThreadCommunicator::Request;

  FaultyCommunicator(ra::ThreadRing& ring, int rank) : inner_(ring, rank) {}

  /// Calls `fault` at the start of the operation-th send, receive or wait from now on, counted from 1.
  void set_fault(int operation, std::function<void()> fault) {
    left_ = operation;
    fault_ = std::move(fault);
  }

  int rank() const { return inner_.rank(); }
  int size() const { return inner_.size(); }
  Request send(int peer, int tag, std::span<const std::byte> buffer) {
    step();
    return inner_.send(peer, tag, buffer);
  }
  Request receive(int peer, int tag, std::span<std::byte> buffer) {
    step();
    return inner_.receive(peer, tag, buffer);
  }
  void wait(Request& request) {
    step();
    inner_.wait(request);
  }
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) {
    return inner_.all_gather(mine);
  }
  void fail(const std::string& reason, ra::Failure failure) { inner_.fail(reason, failure); }

 private:
  void step() {
    if (left_ > 0 && --left_ == 0) fault_();
  }

  ra::ThreadCommunicator inner_;
  int left_ = 0;
  std::function<void()> fault_;
};

/// What each member ended with: null, or its exception.
template <class Body>
std::vector<std::exception_ptr> run_members(int size, const Body& body) {
  std::vector<std::exception_ptr> ends(static_cast<std::size_t>(size));
  run_together(size, [&](int rank) {
    try {
      body(rank);
    } catch (...) {
      ends[static_cast<std::size_t>(rank)] = std::current_exception();
    }
  });
  return ends;
}

/// Type and text of an exception: "MemberFailed: ...", "PeerLost: ...", "invalid_argument: ...", "error:
/// ...".
inline std::string describe(const std::exception_ptr& end) {
  if (!end) return "returned";
  try {
    std::rethrow_exception(end);
  } catch (const ra::MemberFailed& error) {
    return std::string("MemberFailed: ") + error.what();
  } catch (const ra::PeerLost& error) {
    return std::string("PeerLost: ") + error.what();
  } catch (const std::invalid_argument& error) {
    return std::string("invalid_argument: ") + error.what();
  } catch (const std::exception& error) {
    return std::string("error: ") + error.what();
  } catch (...) {
    return "unknown";
  }
}

}  // namespace test
