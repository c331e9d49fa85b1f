// A ring whose members are threads of one process. Buffers are copied once, from the sender's to the
// receiver's.
#pragma once

#include <cstddef>
#include <memory>
#include <ring_attention/ring/communicator.hpp>
#include <ring_attention/version.hpp>
#include <span>
#include <string>
#include <vector>

#if RING_ATTENTION_DEFINES_ENGINE
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <iterator>
#include <list>
#include <mutex>
#include <new>
#include <ring_attention/error.hpp>
#include <ring_attention/threads/fork.hpp>
#include <stdexcept>
#include <utility>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// What the members share. Outlives its ThreadCommunicators. In a child that fork() makes, a ring with
/// messages under way is a failed one: every call throws PeerLost, because the members are threads of the
/// parent.
class ThreadRing {
 public:
  /// A ring of `size` members. Throws std::invalid_argument for a size that is not positive or a negative
  /// timeout.
  explicit ThreadRing(int size, CommunicatorOptions options = {});
  ~ThreadRing();
  ThreadRing(const ThreadRing&) = delete;
  ThreadRing& operator=(const ThreadRing&) = delete;

  int size() const;  ///< number of members

  /// Rank of the member that called fail first, or -1.
  int failed_rank() const;

 private:
  friend class ThreadCommunicator;

  struct Transfer;
  struct State;

  const std::unique_ptr<State> state_;
};

/// A member's end. One thread uses it at a time. A rank may have several, one after the other.
class ThreadCommunicator {
  using Transfer = ThreadRing::Transfer;

 public:
  /// A buffer under way. Destroying it cancels the transfer.
  class Request {
   public:
    /// Nothing under way.
    Request();
    /// Takes the transfer over.
    Request(Request&& other) noexcept;
    /// Cancels its own transfer and takes the other's over.
    Request& operator=(Request&& other) noexcept;
    ~Request();

   private:
    friend class ThreadCommunicator;

    void cancel() noexcept;

    ThreadRing::State* ring_ = nullptr;
    int rank_ = 0;
    std::unique_ptr<Transfer> transfer_;
  };

  /// Throws std::invalid_argument for a rank outside the ring.
  ThreadCommunicator(ThreadRing& ring, int rank);

  int rank() const { return rank_; }  ///< of this member, from 0
  int size() const;                   ///< number of members

  /// Starts to send a buffer to a peer. Throws as RingCommunicator says, and std::invalid_argument for a peer
  /// outside the ring.
  Request send(int peer, int tag, std::span<const std::byte> buffer);
  /// Starts to receive into a buffer from a peer. Throws as send does.
  Request receive(int peer, int tag, std::span<std::byte> buffer);

  /// Returns when the buffer was taken or filled. Throws as RingCommunicator says.
  void wait(Request& request);

  /// The bytes of every member, by rank. Collective. Throws as RingCommunicator says.
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine);

  /// Tells the other members that this one gives up.
  void fail(const std::string& reason, Failure failure = Failure::error);

 private:
  void require_member(const char* name, int rank) const;
  Request post(const Transfer& transfer, bool is_send);

  ThreadRing::State* ring_;
  int rank_;
};

#if RING_ATTENTION_DEFINES_ENGINE

struct ThreadRing::Transfer {
  enum class Progress { posted, copying, done };

  int from, to, tag;
  const std::byte* source;  // of a send
  std::byte* target;        // of a receive
  std::size_t bytes;
  Progress progress = Progress::posted;
};

/// Apart from the ring, which may lie on a stack: see ForkGuard.
struct ThreadRing::State {
  struct Member {
    std::condition_variable changed;       // its own, so that a message wakes nobody else
    std::list<Transfer*> sends, receives;  // to it, posted and not yet met, in order of posting
    std::size_t gathered = 0;              // how many gatherings it began, through whichever communicator
  };
  struct Gathering {
    std::vector<std::vector<std::byte>> parts;
    int arrived = 0;
    int left = 0;
  };

  // Whole before the guard is there: another thread may fork at any moment.
  State(int members_of_ring, const CommunicatorOptions& chosen)
      : size(checked(members_of_ring)),
        options(checked(chosen)),
        members(static_cast<std::size_t>(members_of_ring)) {}

  static int checked(int members_of_ring) {
    detail::require_positive("ring size", members_of_ring);
    return members_of_ring;
  }
  static const CommunicatorOptions& checked(const CommunicatorOptions& chosen) {
    chosen.validate();
    return chosen;
  }

  Member& member(int rank) { return members[static_cast<std::size_t>(rank)]; }
  void wake_all() {
    for (Member& each : members) each.changed.notify_all();
  }
  bool failed() const { return failed_rank >= 0 || members_left; }
  /// In the child of a fork nobody waits, and the messages under way are those of other threads.
  void leave_members() {
    members_left = members_left || copying > 0 || !gatherings.empty();
    for (Member& each : members) {
      detail::renew(each.changed);
      members_left = members_left || !each.sends.empty() || !each.receives.empty();
    }
  }

  /// Waits for what `peer` does, or, where that is negative, all other members; member `rank` waits.
  template <class Condition>
  void wait_until(std::unique_lock<std::mutex>& lock, int rank, int peer, const Condition& condition) {
    constexpr std::chrono::milliseconds longest =
        std::chrono::hours(24 * 365);  // the clock's range is finite
    const auto deadline = std::chrono::steady_clock::now() + (std::min)(options.timeout, longest);
    const bool in_time =
        member(rank).changed.wait_until(lock, deadline, [&] { return condition() || failed(); });
    if (condition()) return;
    throw_failure();
    if (!in_time) {
      throw PeerLost("ring member " + std::to_string(rank) + " waited " +
                     std::to_string(options.timeout.count()) + " ms for " +
                     (peer >= 0 ? "member " + std::to_string(peer) : std::string("the other members")));
    }
  }

  void throw_failure() const {
    if (members_left) {
      throw PeerLost(
          "the process forked while messages were under way: the other members are its parent's threads");
    }
    if (failed_rank >= 0) {  // this member, too: the others have given up
      if (failure_kind == Failure::peer_lost) throw PeerLost(failure);
      throw MemberFailed("ring member " + std::to_string(failed_rank) + " failed: " + failure);
    }
  }

  const int size;
  const CommunicatorOptions options;
  std::mutex mutex;
  std::vector<Member> members;       // by rank
  std::list<Gathering> gatherings;   // the oldest first; every member takes part in each once, in order
  std::size_t gatherings_begun = 0;  // number of the first in the list
  int failed_rank = -1;
  Failure failure_kind = Failure::error;
  std::string failure;
  int copying = 0;            // messages that met and are being copied
  bool members_left = false;  // in the parent of a fork
  detail::ForkGuard fork_guard{mutex, this, [](void* state) { static_cast<State*>(state)->leave_members(); }};
};

RING_ATTENTION_INLINE ThreadRing::ThreadRing(int size, CommunicatorOptions options)
    : state_(std::make_unique<State>(size, options)) {}
RING_ATTENTION_INLINE ThreadRing::~ThreadRing() = default;

RING_ATTENTION_INLINE int ThreadRing::size() const { return state_->size; }

RING_ATTENTION_INLINE int ThreadRing::failed_rank() const {
  const std::lock_guard lock(state_->mutex);
  return state_->failed_rank;
}

RING_ATTENTION_INLINE ThreadCommunicator::Request::Request() = default;
RING_ATTENTION_INLINE ThreadCommunicator::Request::Request(Request&& other) noexcept
    : ring_(other.ring_), rank_(other.rank_), transfer_(std::move(other.transfer_)) {}
RING_ATTENTION_INLINE ThreadCommunicator::Request& ThreadCommunicator::Request::operator=(
    Request&& other) noexcept {
  if (this != &other) {
    cancel();
    ring_ = other.ring_;
    rank_ = other.rank_;
    transfer_ = std::move(other.transfer_);
  }
  return *this;
}
RING_ATTENTION_INLINE ThreadCommunicator::Request::~Request() { cancel(); }

RING_ATTENTION_INLINE void ThreadCommunicator::Request::cancel() noexcept {
  if (!transfer_) return;
  std::unique_lock lock(ring_->mutex);
  if (transfer_->progress == Transfer::Progress::posted) {
    ring_->member(transfer_->to).sends.remove(transfer_.get());
    ring_->member(transfer_->to).receives.remove(transfer_.get());
  }
  ring_->member(rank_).changed.wait(
      lock, [this] { return transfer_->progress != Transfer::Progress::copying || ring_->members_left; });
  lock.unlock();
  transfer_.reset();
}

RING_ATTENTION_INLINE ThreadCommunicator::ThreadCommunicator(ThreadRing& ring, int rank)
    : ring_(ring.state_.get()), rank_(rank) {
  require_member("rank", rank);
}

RING_ATTENTION_INLINE int ThreadCommunicator::size() const { return ring_->size; }

RING_ATTENTION_INLINE ThreadCommunicator::Request ThreadCommunicator::send(
    int peer, int tag, std::span<const std::byte> buffer) {
  require_member("peer", peer);
  return post({rank_, peer, tag, buffer.data(), nullptr, buffer.size()}, true);
}

RING_ATTENTION_INLINE ThreadCommunicator::Request ThreadCommunicator::receive(int peer, int tag,
                                                                              std::span<std::byte> buffer) {
  require_member("peer", peer);
  return post({peer, rank_, tag, nullptr, buffer.data(), buffer.size()}, false);
}

RING_ATTENTION_INLINE void ThreadCommunicator::wait(Request& request) {
  if (!request.transfer_) return;
  const Transfer& transfer = *request.transfer_;
  std::unique_lock lock(ring_->mutex);
  ring_->wait_until(lock, rank_, transfer.from == rank_ ? transfer.to : transfer.from,
                    [&transfer] { return transfer.progress == Transfer::Progress::done; });
  lock.unlock();
  request.transfer_.reset();
}

RING_ATTENTION_INLINE std::vector<std::vector<std::byte>> ThreadCommunicator::all_gather(
    std::span<const std::byte> mine) {
  std::unique_lock lock(ring_->mutex);
  ring_->throw_failure();
  std::size_t& gathered = ring_->member(rank_).gathered;
  const std::size_t number = gathered;
  while (ring_->gatherings_begun + ring_->gatherings.size() <= number) {
    ring_->gatherings.emplace_back().parts.resize(static_cast<std::size_t>(size()));
  }
  auto& gathering =
      *std::next(ring_->gatherings.begin(), static_cast<std::ptrdiff_t>(number - ring_->gatherings_begun));
  gathering.parts[static_cast<std::size_t>(rank_)].assign(mine.begin(), mine.end());
  ++gathered;
  if (++gathering.arrived == size()) ring_->wake_all();
  ring_->wait_until(lock, rank_, -1, [&] { return gathering.arrived == size(); });
  auto parts = gathering.parts;
  if (++gathering.left == size()) {
    // Members leave in order: a later gathering starts after this one has ended.
    ring_->gatherings.pop_front();
    ++ring_->gatherings_begun;
  }
  return parts;
}

RING_ATTENTION_INLINE void ThreadCommunicator::fail(const std::string& reason, Failure failure) {
  const std::lock_guard lock(ring_->mutex);
  if (ring_->failed_rank >= 0) return;
  ring_->failed_rank = rank_;
  ring_->failure_kind = failure;
  try {
    ring_->failure = reason;
  } catch (const std::bad_alloc&) {
    // Without memory for the reason the others still learn of the failure.
  }
  ring_->wake_all();
}

RING_ATTENTION_INLINE void ThreadCommunicator::require_member(const char* name, int rank) const {
  if (rank < 0 || rank >= size()) {
    detail::throw_invalid(name, rank, "must lie in [0, " + std::to_string(size()) + ")");
  }
}

RING_ATTENTION_INLINE ThreadCommunicator::Request ThreadCommunicator::post(const Transfer& transfer,
                                                                           bool is_send) {
  ThreadRing::State::Member& to = ring_->member(transfer.to);
  std::list<Transfer*>& mine = is_send ? to.sends : to.receives;
  std::list<Transfer*>& theirs = is_send ? to.receives : to.sends;
  Request request;
  request.ring_ = ring_;
  request.rank_ = rank_;
  request.transfer_ = std::make_unique<Transfer>(transfer);
  std::unique_lock lock(ring_->mutex);
  ring_->throw_failure();
  const auto match = std::find_if(theirs.begin(), theirs.end(), [&transfer](const Transfer* other) {
    return other->from == transfer.from && other->to == transfer.to && other->tag == transfer.tag;
  });
  if (match == theirs.end()) {
    mine.push_back(request.transfer_.get());
    return request;
  }
  Transfer& a = **match;
  Transfer& b = *request.transfer_;
  if (a.bytes != b.bytes) {
    throw std::logic_error("a message of " + std::to_string(a.bytes) + " bytes meets a buffer of " +
                           std::to_string(b.bytes));
  }
  theirs.erase(match);
  a.progress = b.progress = Transfer::Progress::copying;
  ++ring_->copying;
  lock.unlock();
  std::byte* const target = a.target != nullptr ? a.target : b.target;
  const std::byte* const source = a.source != nullptr ? a.source : b.source;
  if (b.bytes > 0) std::memcpy(target, source, b.bytes);
  lock.lock();
  const int peer = transfer.from == rank_ ? transfer.to : transfer.from;
  a.progress = b.progress = Transfer::Progress::done;
  --ring_->copying;
  lock.unlock();
  ring_->member(peer).changed.notify_all();
  return request;
}

#endif

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
