// What a ring needs from whatever connects its members: opaque buffers to and from any peer.
#pragma once

#include <chrono>
#include <concepts>
#include <cstddef>
#include <exception>
#include <ring_attention/error.hpp>
#include <ring_attention/version.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

struct CommunicatorOptions {
  /// How long a member waits for another before it throws PeerLost.
  std::chrono::milliseconds timeout = std::chrono::minutes(5);

  /// Throws std::invalid_argument for a negative timeout.
  void validate() const {
    if (timeout.count() < 0) {
      detail::throw_invalid("timeout", std::to_string(timeout.count()) + " ms", "must not be negative");
    }
  }
};

/// A peer did not answer within the timeout, or its process is gone.
class PeerLost : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Another member of the ring failed; the text says which and how.
class MemberFailed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Why a member gives up: what the others' exceptions are.
enum class Failure {
  error,     ///< it failed itself: MemberFailed
  peer_lost  ///< it waited for another in vain: PeerLost
};

/// One member's connection to a ring of `size()` members.
///
/// - `send` and `receive` start moving a buffer, which must live until the request is done; the n-th send
///   to a peer with a tag meets its n-th receive with that tag, and their sizes agree. A request that is
///   destroyed early is cancelled: its buffer is not touched afterwards.
/// - `wait` returns when the buffer has been taken or filled. Throws PeerLost after the timeout, and
///   MemberFailed or PeerLost as soon as any member has called `fail`.
/// - `wait` on a request that is empty or done returns at once. After PeerLost or MemberFailed the ring
///   cannot be used again. The engine uses the tags 0, 1 and 2.
/// - `all_gather` hands every member the bytes of all, by rank; sizes may differ. A collective call.
/// - `fail` tells all members that this one gives up, and why; the first reason counts. It does not wait.
/// - A communicator that moves messages only while it is called offers `progress()`, which returns at once;
///   the thread that made the call uses it between two tiles.
template <class C>
concept RingCommunicator = requires(C& c, typename C::Request& request, int peer, int tag,
                                    std::span<const std::byte> out, std::span<std::byte> in,
                                    const std::string& reason, Failure failure) {
  { c.rank() } -> std::same_as<int>;
  { c.size() } -> std::same_as<int>;
  { c.send(peer, tag, out) } -> std::same_as<typename C::Request>;
  { c.receive(peer, tag, in) } -> std::same_as<typename C::Request>;
  c.wait(request);
  { c.all_gather(out) } -> std::same_as<std::vector<std::vector<std::byte>>>;
  c.fail(reason, failure);
};

/// A ring of one: nothing is ever sent.
class AloneCommunicator {
 public:
  struct Request {};
  int rank() const { return 0; }
  int size() const { return 1; }
  Request send(int, int, std::span<const std::byte>) { throw std::logic_error("a ring of one has no peer"); }
  Request receive(int, int, std::span<std::byte>) { throw std::logic_error("a ring of one has no peer"); }
  void wait(Request&) {}
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) {
    return {std::vector<std::byte>(mine.begin(), mine.end())};
  }
  void fail(const std::string&, Failure = Failure::error) {}
};

namespace detail {

template <class Communicator>
void make_progress(Communicator& communicator) {
  if constexpr (requires { communicator.progress(); }) communicator.progress();
}

/// Returns what call() returns; where it throws, tells the other members.
template <class Communicator, class Call>
auto tell_failure(Communicator& communicator, const Call& call) {
  try {
    return call();
  } catch (const MemberFailed&) {
    throw;
  } catch (const PeerLost& error) {
    communicator.fail(error.what(), Failure::peer_lost);
    throw;
  } catch (const std::exception& error) {
    communicator.fail(error.what(), Failure::error);
    throw;
  } catch (...) {
    communicator.fail("unknown exception", Failure::error);
    throw;
  }
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
