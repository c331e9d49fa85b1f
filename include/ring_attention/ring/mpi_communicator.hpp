// A ring whose members are the ranks of an MPI communicator.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <ring_attention/pattern/pattern_cache.hpp>
#include <ring_attention/ring/agreement.hpp>
#include <ring_attention/ring/communicator.hpp>
#include <ring_attention/ring/mpi_buffers.hpp>
#include <ring_attention/ring/mpi_calls.hpp>
#include <ring_attention/ring/mpi_node.hpp>
#include <ring_attention/ring/mpi_notices.hpp>
#include <ring_attention/ring/mpi_waiting.hpp>
#include <ring_attention/ring/shared_memory.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// What an MpiCommunicator may be given beside CommunicatorOptions.
struct MpiOptions {
  /// Larger messages travel in pieces of so many bytes: MPI counts an int. Equal on all ranks.
  std::size_t largest_piece = std::size_t{1} << 30;
  /// Ranks that share memory: MPI_COMM_NULL finds those of each machine, MPI_COMM_SELF shares
  /// none. Stays the caller's.
  MPI_Comm node = MPI_COMM_NULL;
};

/// A rank's end of a ring over the ranks of an MPI communicator, which stays the caller's: messages travel in
/// duplicates of it, so that they never meet the caller's.
///
/// Ranks of one machine read each other's messages where they were packed, in shared memory, and share
/// patterns; between machines, and where a system does not let processes share memory, MPI moves the bytes.
/// Buffers and MPI's persistent requests are kept from call to call: seven messages at a time in forward,
/// nine in backward.
///
/// MPI makes progress while this thread waits, and where the engine calls `progress` between two tiles; no
/// thread is added, so that MPI_THREAD_FUNNELED is enough, and MPI_THREAD_SINGLE for calls of one thread.
/// One thread uses the object, the one that may call MPI.
///
/// After PeerLost the processes that are left should call MPI_Abort: MPI itself may wait for the lost one in
/// MPI_Finalize.
class MpiCommunicator {
  /// What a rank tells another of the same machine in place of a message.
  struct Loan {
    detail::SharedMemoryName name;
    std::int64_t buffer = 0, version = 0;
    std::uint64_t bytes = 0;
  };
  enum class Stage { empty, prepared, under_way, arrived };

  class Place {
   public:
    Place() = default;
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    ~Place() {
      if (owner_ != nullptr) owner_->abandon(*this);
    }

   protected:
    friend class MpiCommunicator;
    MpiCommunicator* owner_ = nullptr;
    int peer_ = 0, tag_ = 0;
    Stage stage_ = Stage::empty;
    bool lent_ = false;
    std::span<std::byte> bytes_;
    std::unique_ptr<detail::MpiBuffer> buffer_;
    detail::MpiRoute* route_ = nullptr;
    std::unique_ptr<Loan> loan_ = std::make_unique<Loan>();
    MPI_Request loan_request_ = MPI_REQUEST_NULL, return_request_ = MPI_REQUEST_NULL;
  };

 public:
  /// A place for one message after the other to a peer.
  struct Outgoing : Place {
    /// Where the message is written between prepare() and send().
    std::span<std::byte> bytes() { return bytes_; }
  };
  /// A place for one message after the other from a peer.
  struct Incoming : Place {
    /// The message, between wait() and release().
    std::span<const std::byte> bytes() const { return bytes_; }
  };

  /// Collective over `communicator`, an intra-communicator. Throws std::invalid_argument for a negative
  /// timeout or a piece of 0 or more than 2^31 - 1 bytes, std::logic_error where MPI is not running or does
  /// not let this thread call it, MpiError where MPI fails, and PeerLost where a rank does not take part in
  /// time.
  explicit MpiCommunicator(MPI_Comm communicator, CommunicatorOptions options = {}, MpiOptions mpi = {})
      : waiting_(options.timeout.count() < 0 ? CommunicatorOptions{}.timeout : options.timeout),
        largest_piece_(mpi.largest_piece) {
    detail::require_mpi();
    int between_groups = 0;
    if (communicator == MPI_COMM_NULL) detail::throw_invalid("communicator", "MPI_COMM_NULL", "is needed");
    detail::check_mpi(MPI_Comm_test_inter(communicator, &between_groups), "MPI_Comm_test_inter");
    if (between_groups != 0) {
      detail::throw_invalid("communicator", "inter-communicator", "must have one group");
    }
    detail::check_mpi(MPI_Comm_rank(communicator, &waiting_.rank), "MPI_Comm_rank");
    detail::check_mpi(MPI_Comm_size(communicator, &size_), "MPI_Comm_size");
    messages_ = waiting_.duplicate(communicator);
    const MPI_Comm notices = waiting_.duplicate(communicator);
    try {
      require_options(options);
      if (size_ > 1) node_ = detail::MpiNode(waiting_, messages_, mpi.node);
    } catch (const std::invalid_argument&) {  // on every rank alike
      MPI_Comm_free(&messages_);
      MPI_Comm notices_of_none = notices;
      MPI_Comm_free(&notices_of_none);
      throw;
    }
    waiting_.notices.open(notices);  // last: from here on MPI writes to this object
  }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  /// Collective, but for a ring that failed, whose MPI communicators are left as they are.
  ~MpiCommunicator() {
    int finalized = 0;
    if (MPI_Finalized(&finalized) != MPI_SUCCESS || finalized != 0) {
      // Requests can no longer be freed.
      for (auto& buffer : buffers_) detail::leave_to_mpi(std::move(buffer));
      return;
    }
    buffers_.clear();
    retired_.clear();
    waiting_.notices.close(grace_);
    if (!waiting_.notices.failed()) MPI_Comm_free(&messages_);
  }

  int rank() const { return waiting_.rank; }  ///< of this member, from 0
  int size() const { return size_; }          ///< number of members
  /// Throws std::logic_error if MPI was initialised for fewer threads than compute.
  void require_threads(int threads) const { detail::require_mpi_level(threads); }
  /// Whether messages of that rank are read in shared memory; both sides say the same.
  bool shares_memory_with(int peer) const { return node_.shares_memory_with(peer); }

  /// Waits until an earlier message of the place was taken, and makes room for the next. This, `send`,
  /// `expect`, `wait`, `release` and `all_gather` throw PeerLost, MemberFailed as RingCommunicator says, and
  /// MpiError where MPI fails.
  void prepare(Outgoing& message, int peer, int tag, std::size_t bytes) {
    wait(message);
    assign(message, peer, tag, bytes, shares_memory_with(peer));
    message.bytes_ = {message.buffer_->data(), bytes};
    message.stage_ = Stage::prepared;
  }

  /// Starts to send what was written.
  void send(Outgoing& message) {
    waiting_.notices.throw_failure();
    message.lent_ = shares_memory_with(message.peer_);
    if (message.lent_) {
      lend(message);
    } else {
      start_route(message, false);
    }
  }

  /// Returns when the message was taken.
  void wait(Outgoing& message) {
    if (message.stage_ != Stage::under_way) return;
    if (message.lent_) {
      waiting_.wait_until([&] { return detail::test_mpi(message.loan_request_); }, message.peer_);
      waiting_.wait_until([&] { return detail::test_mpi(message.return_request_); }, message.peer_);
      std::atomic_thread_fence(std::memory_order_seq_cst);  // what was read comes before what is written next
    } else {
      waiting_.wait_until([&] { return is_done(*message.route_); }, message.peer_);
    }
    message.stage_ = Stage::empty;
  }

  /// Starts to receive the next message from a peer with that tag.
  void expect(Incoming& message, int peer, int tag, std::size_t bytes) {
    waiting_.notices.throw_failure();
    message.lent_ = shares_memory_with(peer);
    if (message.lent_) {
      start(message, peer, tag);
      message.bytes_ = {static_cast<std::byte*>(nullptr), bytes};
      message.stage_ = Stage::under_way;
      detail::check_mpi(MPI_Irecv(message.loan_.get(), sizeof(Loan), MPI_BYTE, peer, tag, messages_,
                                  &message.loan_request_),
                        "MPI_Irecv");
    } else {
      assign(message, peer, tag, bytes, false);
      message.bytes_ = {message.buffer_->data(), bytes};
      start_route(message, true);
    }
  }

  /// Returns when the message is there.
  void wait(Incoming& message) {
    if (message.stage_ != Stage::under_way) return;
    if (message.lent_) {
      waiting_.wait_until([&] { return detail::test_mpi(message.loan_request_); }, message.peer_);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      require_size(message.loan_->bytes, message.bytes_.size());
      message.bytes_ = borrow(message.peer_, *message.loan_);
    } else {
      waiting_.wait_until([&] { return is_done(*message.route_); }, message.peer_);
    }
    message.stage_ = Stage::arrived;
  }

  /// Gives the message's memory back to a sender that lent it.
  void release(Incoming& message) {
    if (message.stage_ == Stage::arrived && message.lent_) {
      std::atomic_thread_fence(std::memory_order_seq_cst);
      waiting_.wait_until([&] { return detail::test_mpi(message.return_request_); }, message.peer_);
      detail::check_mpi(MPI_Isend(nullptr, 0, MPI_BYTE, message.peer_, message.tag_ + return_tag, messages_,
                                  &message.return_request_),
                        "MPI_Isend");
      message.bytes_ = {};
    }
    if (message.stage_ == Stage::arrived) message.stage_ = Stage::empty;
  }

  /// The bytes of every member, by rank. Collective.
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) {
    return waiting_.all_gather(messages_, mine);
  }

  /// Tells the other members that this one gives up.
  void fail(const std::string& reason, Failure failure = Failure::error) {
    waiting_.notices.tell(rank(), size_, reason, failure);
  }

  /// Lets MPI move what is under way; never throws. The engine calls it between two tiles.
  void progress() noexcept { waiting_.notices.take(); }

  /// Computes a pattern, or maps the one that another rank of this machine computed.
  PatternCache::Pattern dilated_indices(const PatternKey& key) { return node_.patterns.find_or_compute(key); }

 private:
  struct Borrowed {
    std::int64_t version = 0;
    detail::SharedMemory memory;
  };
  static constexpr int return_tag = 1 << 10;  // what is lent comes back with the message's tag and this

  /// Collective. A rank with invalid options must not leave the others waiting for it.
  void require_options(const CommunicatorOptions& options) {
    std::string error;
    try {
      options.validate();
      if (largest_piece_ == 0 || largest_piece_ > static_cast<std::size_t>(INT_MAX)) {
        detail::throw_invalid("largest_piece", std::to_string(largest_piece_), "must lie in [1, 2^31)");
      }
    } catch (const std::invalid_argument& invalid) {
      error = invalid.what();
    }
    const std::string mine =
        error.append("\0", 1).append(detail::packed({{"largest_piece", std::to_string(largest_piece_)}}));
    const std::string disagreement =
        detail::find_disagreement(waiting_.all_gather(messages_, std::as_bytes(std::span(mine))));
    if (!disagreement.empty()) throw std::invalid_argument(disagreement);
  }

  static void require_size(std::uint64_t sent, std::uint64_t expected) {
    if (sent == expected) return;
    throw std::logic_error("a message of " + std::to_string(sent) + " bytes meets a place of " +
                           std::to_string(expected));
  }

  void start(Place& place, int peer, int tag) {
    place.owner_ = this;
    place.peer_ = peer;
    place.tag_ = tag;
  }

  /// A place keeps its buffer while that serves, so that the same calls meet the same buffers.
  void assign(Place& place, int peer, int tag, std::size_t bytes, bool shared) {
    start(place, peer, tag);
    if (place.buffer_ && place.buffer_->shared() != shared) buffers_.push_back(std::move(place.buffer_));
    if (!place.buffer_) {
      auto idle = buffers_.end();
      for (auto it = buffers_.begin(); it != buffers_.end(); ++it) {
        const bool older = idle == buffers_.end() || (*it)->number() < (*idle)->number();
        if ((*it)->shared() == shared && older) idle = it;
      }
      if (idle == buffers_.end()) {
        place.buffer_ = std::make_unique<detail::MpiBuffer>(shared, next_buffer_++);
      } else {
        place.buffer_ = std::move(*idle);
        buffers_.erase(idle);
      }
    }
    place.buffer_->reserve(std::max<std::size_t>(bytes, 1));
  }

  void start_route(Place& place, bool receives) {
    place.route_ = &place.buffer_->route(messages_, receives, place.peer_, place.tag_, place.bytes_.size(),
                                         largest_piece_);
    place.route_->done = place.route_->started = 0;
    place.route_->received = 0;
    place.stage_ = Stage::under_way;
    for (MPI_Request& piece : place.route_->pieces) {
      detail::check_mpi(MPI_Start(&piece), "MPI_Start");
      ++place.route_->started;
    }
  }

  /// Pieces are asked after one by one: MPI tells a communicator's errors of a single request only.
  static bool is_done(detail::MpiRoute& route) {
    for (; route.done < route.pieces.size(); ++route.done) {
      int done = 0;
      MPI_Status status;
      detail::check_mpi(MPI_Test(&route.pieces[route.done], &done, &status), "MPI_Test");
      if (done == 0) return false;
      int count = 0;
      if (route.receives) detail::check_mpi(MPI_Get_count(&status, MPI_BYTE, &count), "MPI_Get_count");
      route.received += static_cast<std::uint64_t>(count);
    }
    if (route.receives) require_size(route.received, route.bytes);
    return true;
  }

  void lend(Outgoing& message) {
    std::atomic_thread_fence(std::memory_order_seq_cst);  // what was written comes before the news of it
    const detail::MpiBuffer& buffer = *message.buffer_;
    *message.loan_ = {buffer.name(), buffer.number(), buffer.version(), message.bytes_.size()};
    message.stage_ = Stage::under_way;
    detail::check_mpi(MPI_Irecv(nullptr, 0, MPI_BYTE, message.peer_, message.tag_ + return_tag, messages_,
                                &message.return_request_),
                      "MPI_Irecv");
    detail::check_mpi(MPI_Isend(message.loan_.get(), sizeof(Loan), MPI_BYTE, message.peer_, message.tag_,
                                messages_, &message.loan_request_),
                      "MPI_Isend");
  }

  /// Where a lent message lies in this process.
  std::span<std::byte> borrow(int peer, const Loan& loan) {
    Borrowed& borrowed = borrowed_[{peer, loan.buffer}];
    if (borrowed.version != loan.version) {
      borrowed = {};
      try {
        borrowed = {loan.version, detail::SharedMemory::attach(loan.name)};
      } catch (const std::system_error& error) {
        if (error.code() != std::errc::no_such_file_or_directory &&
            error.code() != std::errc::no_such_process) {
          throw;
        }
        throw_gone(peer, error.what());
      }
    }
    return borrowed.memory.bytes().first(loan.bytes);
  }

  /// A rank takes its memory along when it ends, and before it does may have said why.
  [[noreturn]] void throw_gone(int peer, const std::string& reason) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(200);
    while (std::chrono::steady_clock::now() < end) {
      waiting_.notices.take();
      waiting_.notices.throw_failure();
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    throw PeerLost("ring member " + std::to_string(rank()) + " finds the process of member " +
                   std::to_string(peer) + " gone: " + reason);
  }

  /// Ends what a place has under way when it goes. A receive that met its message, and a send, end when MPI
  /// has moved the bytes, which a peer that lives helps it to.
  void abandon(Place& place) noexcept {
    std::span<MPI_Request> pieces;
    if (place.stage_ == Stage::under_way && !place.lent_) {
      const detail::MpiRoute& route = *place.route_;
      pieces = std::span(place.route_->pieces).subspan(route.done, route.started - route.done);
    }
    for (MPI_Request& piece : pieces) MPI_Cancel(&piece);
    bool over = grace_.finish(pieces);
    for (MPI_Request* request : {&place.loan_request_, &place.return_request_}) {
      if (*request == MPI_REQUEST_NULL) continue;
      // A return is on its way; all else no longer has a meaning.
      if (place.stage_ != Stage::empty) MPI_Cancel(request);
      if (!grace_.finish({request, 1})) detail::leave_to_mpi(std::move(place.loan_));
    }
    if (place.buffer_ == nullptr) return;
    if (!over) {
      detail::leave_to_mpi(std::move(place.buffer_));
    } else if (place.stage_ == Stage::under_way && place.lent_) {
      retired_.push_back(std::move(place.buffer_));  // the peer may be reading it
    } else {
      buffers_.push_back(std::move(place.buffer_));
    }
  }

  detail::MpiWaiting waiting_;
  detail::MpiGrace grace_;
  std::size_t largest_piece_;
  int size_ = 1;
  MPI_Comm messages_ = MPI_COMM_NULL;
  detail::MpiNode node_;
  std::vector<std::unique_ptr<detail::MpiBuffer>> buffers_;  // idle ones
  std::vector<std::unique_ptr<detail::MpiBuffer>> retired_;
  std::int64_t next_buffer_ = 0;
  std::map<std::pair<int, std::int64_t>, Borrowed> borrowed_;  // by peer and its buffer
};

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
