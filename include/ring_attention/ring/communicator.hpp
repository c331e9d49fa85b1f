// What a ring needs from whatever connects its members: bytes to and from any peer.
#pragma once

#include <chrono>
#include <concepts>
#include <cstddef>
#include <exception>
#include <new>
#include <ring_attention/error.hpp>
#include <ring_attention/version.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// What every communicator is made with.
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

/// Moves buffers between members.
///
/// - `send` and `receive` start moving a buffer, which must live until the request is done; the n-th send
///   to a peer with a tag meets its n-th receive with that tag, and their sizes agree. A request that is
///   destroyed early is cancelled: its buffer is not touched afterwards.
/// - `wait` returns when the buffer has been taken or filled; at once for a request that is empty or done.
template <class C>
concept BufferTransport = std::default_initializable<typename C::Request> &&
    std::movable<typename C::Request> && requires(C& c, typename C::Request& request, int peer, int tag,
                                                  std::span<const std::byte> out, std::span<std::byte> in) {
  { c.send(peer, tag, out) } -> std::same_as<typename C::Request>;
  { c.receive(peer, tag, in) } -> std::same_as<typename C::Request>;
  c.wait(request);
};

/// Moves messages in memory of its own, which members may share.
///
/// - An Outgoing or Incoming is a place for one message after the other. The n-th message to a peer with a
///   tag meets its n-th `expect` with that tag, and their sizes agree.
/// - `prepare` waits until an earlier message of the place was taken; `bytes()` is then where the message is
///   written, aligned as tensors are, before `send`.
/// - Messages from a peer with a tag are released in the order in which they were sent.
/// - After `expect` and `wait`, `bytes()` is the message, until `release`, for which a sender that lends its
///   memory waits.
/// - `wait` and `release` return at once for a place without a message. A place destroyed early cancels its
///   message.
template <class C>
concept MessageTransport = requires(C& c, typename C::Outgoing& out, typename C::Incoming& in,
                                    const typename C::Incoming& arrived, int peer, int tag,
                                    std::size_t bytes) {
  c.prepare(out, peer, tag, bytes);
  { out.bytes() } -> std::same_as<std::span<std::byte>>;
  c.send(out);
  c.wait(out);
  c.expect(in, peer, tag, bytes);
  c.wait(in);
  c.release(in);
  { arrived.bytes() } -> std::same_as<std::span<const std::byte>>;
};

/// One member's connection to a ring of `size()` members, by buffers or by messages.
///
/// - Waiting throws PeerLost after the timeout, and MemberFailed or PeerLost as soon as any member has called
///   `fail`. After that the ring cannot be used again. The engine uses the tags 0, 1 and 2.
/// - `all_gather` hands every member the bytes of all, by rank; sizes may differ. A collective call.
/// - `fail` tells all members that this one gives up, and why; the first reason counts. It does not wait.
///
/// Optional:
/// - `progress()`, for a communicator that moves messages only while it is called: returns at once. The
///   thread that made the call uses it between two tiles.
/// - `step(s, size)`: called by that thread before it computes with keys, for s = 0 .. size - 1; at s = 0
///   with its own, then with those of one other member at a time.
/// - `dilated_indices(key)`: computes a pattern that is not at hand, in place of make_indices.
/// - `require_threads(n)`: throws if it cannot be used while n threads compute, the caller's included.
template <class C>
concept RingCommunicator = (BufferTransport<C> ||
                            MessageTransport<C>)&&requires(C& c, std::span<const std::byte> out,
                                                           const std::string& reason, Failure failure) {
  { c.rank() } -> std::same_as<int>;
  { c.size() } -> std::same_as<int>;
  { c.all_gather(out) } -> std::same_as<std::vector<std::vector<std::byte>>>;
  c.fail(reason, failure);
};

/// A ring of one: nothing is ever sent.
class AloneCommunicator {
 public:
  /// Never under way.
  struct Request {};
  int rank() const { return 0; }  ///< always 0
  int size() const { return 1; }  ///< always 1
  /// Throws std::logic_error.
  Request send(int, int, std::span<const std::byte>) { throw std::logic_error("a ring of one has no peer"); }
  /// Throws std::logic_error.
  Request receive(int, int, std::span<std::byte>) { throw std::logic_error("a ring of one has no peer"); }
  /// Returns at once.
  void wait(Request&) {}
  /// Returns the bytes given.
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) {
    return {std::vector<std::byte>(mine.begin(), mine.end())};
  }
  /// Nobody is there to be told.
  void fail(const std::string&, Failure = Failure::error) {}
};

namespace detail {

template <class Communicator>
void make_progress(Communicator& communicator) {
  if constexpr (requires { communicator.progress(); }) communicator.progress();
}

template <class Communicator>
void tell_step(Communicator& communicator, int step, int steps) {
  if constexpr (requires { communicator.step(step, steps); }) communicator.step(step, steps);
}

template <class Communicator>
void require_threads(Communicator& communicator, int threads) {
  if constexpr (requires { communicator.require_threads(threads); }) communicator.require_threads(threads);
}

/// Tells the other members; without a reason where there is no memory for it, since they wait.
template <class Communicator>
void give_up(Communicator& communicator, const char* reason, Failure failure) {
  try {
    communicator.fail(reason, failure);
  } catch (const std::bad_alloc&) {
    communicator.fail(std::string(), failure);
  }
}

/// Returns what call() returns; where it throws, tells the other members.
template <class Communicator, class Call>
auto tell_failure(Communicator& communicator, const Call& call) {
  try {
    return call();
  } catch (const MemberFailed&) {
    throw;
  } catch (const PeerLost& error) {
    give_up(communicator, error.what(), Failure::peer_lost);
    throw;
  } catch (const std::exception& error) {
    give_up(communicator, error.what(), Failure::error);
    throw;
  } catch (...) {
    give_up(communicator, "unknown exception", Failure::error);
    throw;
  }
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
