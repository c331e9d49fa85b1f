// A ring whose members are the ranks of an MPI communicator.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <climits>
#include <cstddef>
#include <cstring>
#include <memory>
#include <numeric>
#include <ring_attention/ring/communicator.hpp>
#include <ring_attention/ring/mpi_calls.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// A rank's end of a ring over the ranks of an MPI communicator, which stays the caller's: messages travel in
/// duplicates of it, so that they never meet the caller's.
///
/// MPI makes progress while this thread waits, and where the engine calls `progress` between two tiles; no
/// thread is added, so that MPI_THREAD_FUNNELED is enough. One thread uses the object, the one that may call
/// MPI.
///
/// After PeerLost the processes that are left should call MPI_Abort: MPI itself may wait for the lost one in
/// MPI_Finalize.
class MpiCommunicator {
  struct Transfer {
    std::vector<MPI_Request> pieces;
    int peer;
    std::size_t bytes;
    bool receives;
  };

 public:
  /// What MPI counts in one message: larger buffers travel in pieces.
  static constexpr std::size_t default_piece = std::size_t{1} << 30;

  class Request {
   public:
    Request() = default;
    Request(Request&& other) noexcept : owner_(other.owner_), transfer_(std::move(other.transfer_)) {}
    Request& operator=(Request&& other) noexcept {
      if (this != &other) {
        cancel();
        owner_ = other.owner_;
        transfer_ = std::move(other.transfer_);
      }
      return *this;
    }
    ~Request() { cancel(); }

   private:
    friend class MpiCommunicator;

    void cancel() noexcept {
      if (transfer_) owner_->abandon(*transfer_);
      transfer_.reset();
    }

    MpiCommunicator* owner_ = nullptr;
    std::unique_ptr<Transfer> transfer_;
  };

  /// Collective over `communicator`, an intra-communicator. Buffers of more than `largest_piece` bytes travel
  /// in pieces; equal on all ranks. Throws std::invalid_argument for a negative timeout or a piece of 0 or
  /// more than 2^31 - 1 bytes, std::logic_error where MPI is not running or was initialised without
  /// MPI_THREAD_FUNNELED, MpiError where MPI fails, and PeerLost where a rank does not take part in time.
  explicit MpiCommunicator(MPI_Comm communicator, CommunicatorOptions options = {},
                           std::size_t largest_piece = default_piece)
      : options_(options), largest_piece_(largest_piece) {
    options.validate();
    if (largest_piece == 0 || largest_piece > static_cast<std::size_t>(INT_MAX)) {
      detail::throw_invalid("largest_piece", std::to_string(largest_piece), "must lie in [1, 2^31)");
    }
    detail::require_mpi();
    int between_groups = 0;
    detail::check_mpi(MPI_Comm_test_inter(communicator, &between_groups), "MPI_Comm_test_inter");
    if (between_groups != 0)
      detail::throw_invalid("communicator", "inter-communicator", "must have one group");
    detail::check_mpi(MPI_Comm_rank(communicator, &rank_), "MPI_Comm_rank");
    detail::check_mpi(MPI_Comm_size(communicator, &size_), "MPI_Comm_size");
    // Reasons of failures must not meet the receives of messages.
    for (MPI_Comm* duplicate : {&messages_, &notices_}) {
      MPI_Request request = MPI_REQUEST_NULL;
      detail::check_mpi(MPI_Comm_idup(communicator, duplicate, &request), "MPI_Comm_idup");
      wait_until([&request] { return detail::test_mpi(request); }, everyone);
      detail::check_mpi(MPI_Comm_set_errhandler(*duplicate, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    }
    detail::check_mpi(MPI_Irecv(notice_.data(), static_cast<int>(notice_.size()), MPI_BYTE, MPI_ANY_SOURCE, 0,
                                notices_, &notice_request_),
                      "MPI_Irecv");
  }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  /// Collective, but for a ring that failed, whose MPI communicators are left as they are.
  ~MpiCommunicator() {
    int finalized = 0;
    if (MPI_Finalized(&finalized) != MPI_SUCCESS || finalized != 0) return;
    if (notice_request_ != MPI_REQUEST_NULL) {
      MPI_Cancel(&notice_request_);
      MPI_Wait(&notice_request_, MPI_STATUS_IGNORE);
    }
    if (failed_rank_ < 0) {
      MPI_Comm_free(&messages_);
      MPI_Comm_free(&notices_);
    } else if (!finish(notice_sends_)) {
      (void)sent_notice_.release();  // MPI may still read it
    }
  }

  int rank() const { return rank_; }
  int size() const { return size_; }

  Request send(int peer, int tag, std::span<const std::byte> buffer) {
    return start(peer, buffer.size(), false, [&](std::size_t first, int count, MPI_Request* request) {
      detail::check_mpi(MPI_Isend(buffer.data() + first, count, MPI_BYTE, peer, tag, messages_, request),
                        "MPI_Isend");
    });
  }
  Request receive(int peer, int tag, std::span<std::byte> buffer) {
    return start(peer, buffer.size(), true, [&](std::size_t first, int count, MPI_Request* request) {
      detail::check_mpi(MPI_Irecv(buffer.data() + first, count, MPI_BYTE, peer, tag, messages_, request),
                        "MPI_Irecv");
    });
  }

  void wait(Request& request) {
    if (!request.transfer_) return;
    Transfer& transfer = *request.transfer_;
    wait_until([this, &transfer] { return is_done(transfer); }, transfer.peer);
    request.transfer_.reset();
  }

  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) {
    throw_failure();
    // Outlives the call where a rank is lost: MPI may still write to it.
    auto gathering = std::make_unique<Gathering>();
    try {
      return gather(*gathering, mine);
    } catch (...) {
      if (gathering->request != MPI_REQUEST_NULL) (void)gathering.release();
      throw;
    }
  }

  void fail(const std::string& reason, Failure failure = Failure::error) {
    if (failed_rank_ >= 0) return;
    record_failure(rank_, failure, reason);
    sent_notice_ = std::make_unique<Notice>();
    Notice& notice = *sent_notice_;
    notice[0] = static_cast<std::byte>(failure);
    std::memcpy(notice.data() + 1, reason.data(), std::min(reason.size(), notice.size() - 2));
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == rank_) continue;
      MPI_Request& request = notice_sends_.emplace_back(MPI_REQUEST_NULL);
      // Who can no longer be reached learns of it by the timeout.
      if (MPI_Isend(notice.data(), static_cast<int>(notice.size()), MPI_BYTE, peer, 0, notices_, &request) !=
          MPI_SUCCESS) {
        notice_sends_.pop_back();
      }
    }
  }

  /// Lets MPI move what is under way; never throws. The engine calls it between two tiles.
  void progress() noexcept { take_notice(); }

 private:
  using Notice = std::array<std::byte, 1024>;  // why, and the reason's text, ended by 0
  struct Gathering {
    std::vector<int> sizes, places;
    std::vector<std::byte> mine, all;
    int size = 0;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  static constexpr int everyone = -1;
  static constexpr std::chrono::milliseconds grace{500};  // for what a failed ring has under way

  /// Starts a transfer piece by piece; MPI keeps pieces of one peer and tag in order. An empty buffer is a
  /// message, too.
  template <class Start>
  Request start(int peer, std::size_t bytes, bool receives, const Start& start_piece) {
    throw_failure();
    Request request;
    request.owner_ = this;
    request.transfer_ = std::make_unique<Transfer>(Transfer{{}, peer, bytes, receives});
    std::size_t first = 0;
    do {
      const std::size_t count = std::min(largest_piece_, bytes - first);
      MPI_Request& piece = request.transfer_->pieces.emplace_back(MPI_REQUEST_NULL);
      start_piece(first, static_cast<int>(count), &piece);
      first += count;
    } while (first < bytes);
    return request;
  }

  bool is_done(Transfer& transfer) const {
    std::size_t first = 0;
    for (MPI_Request& piece : transfer.pieces) {
      const std::size_t expected = std::min(largest_piece_, transfer.bytes - first);
      first += expected;
      if (piece == MPI_REQUEST_NULL) continue;
      int done = 0;
      MPI_Status status;
      detail::check_mpi(MPI_Test(&piece, &done, &status), "MPI_Test");
      if (done == 0) return false;
      int count = 0;
      if (transfer.receives) detail::check_mpi(MPI_Get_count(&status, MPI_BYTE, &count), "MPI_Get_count");
      if (transfer.receives && static_cast<std::size_t>(count) != expected) {
        throw std::logic_error("a message of " + std::to_string(count) + " bytes meets a buffer of " +
                               std::to_string(expected));
      }
    }
    return true;
  }

  std::vector<std::vector<std::byte>> gather(Gathering& gathering, std::span<const std::byte> mine) {
    gathering.mine.assign(mine.begin(), mine.end());
    gathering.size = static_cast<int>(mine.size());
    gathering.sizes.resize(static_cast<std::size_t>(size_));
    gathering.places.resize(static_cast<std::size_t>(size_));
    detail::check_mpi(MPI_Iallgather(&gathering.size, 1, MPI_INT, gathering.sizes.data(), 1, MPI_INT,
                                     messages_, &gathering.request),
                      "MPI_Iallgather");
    wait_until([&] { return detail::test_mpi(gathering.request); }, everyone);
    std::exclusive_scan(gathering.sizes.begin(), gathering.sizes.end(), gathering.places.begin(), 0);
    gathering.all.resize(static_cast<std::size_t>(gathering.places.back()) +
                         static_cast<std::size_t>(gathering.sizes.back()));
    detail::check_mpi(MPI_Iallgatherv(gathering.mine.data(), gathering.size, MPI_BYTE, gathering.all.data(),
                                      gathering.sizes.data(), gathering.places.data(), MPI_BYTE, messages_,
                                      &gathering.request),
                      "MPI_Iallgatherv");
    wait_until([&] { return detail::test_mpi(gathering.request); }, everyone);
    std::vector<std::vector<std::byte>> parts;
    for (std::size_t i = 0; i < gathering.sizes.size(); ++i) {
      const std::byte* first = gathering.all.data() + gathering.places[i];
      parts.emplace_back(first, first + gathering.sizes[i]);
    }
    return parts;
  }

  /// Ends a transfer whose buffer goes. A receive that met its message, and a send, end when MPI has moved
  /// the bytes, which a peer that lives helps it to.
  void abandon(Transfer& transfer) noexcept {
    for (MPI_Request& piece : transfer.pieces) {
      if (piece != MPI_REQUEST_NULL) MPI_Cancel(&piece);
    }
    (void)finish(transfer.pieces);
  }

  /// Whether all ended within the grace.
  static bool finish(std::vector<MPI_Request>& requests) noexcept {
    const auto deadline = std::chrono::steady_clock::now() + grace;
    for (;;) {
      int done = 0;
      if (MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE) !=
          MPI_SUCCESS) {
        return false;
      }
      if (done != 0) return true;
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::yield();
    }
  }

  template <class Condition>
  void wait_until(const Condition& condition, int peer) {
    constexpr std::chrono::milliseconds longest =
        std::chrono::hours(24 * 365);  // the clock's range is finite
    const auto begin = std::chrono::steady_clock::now();
    const auto deadline = begin + std::min(options_.timeout, longest);
    while (!condition()) {
      take_notice();
      throw_failure();
      const auto now = std::chrono::steady_clock::now();
      if (now >= deadline) {
        throw PeerLost("ring member " + std::to_string(rank_) + " waited " +
                       std::to_string(options_.timeout.count()) + " ms for " +
                       (peer >= 0 ? "member " + std::to_string(peer) : std::string("the other members")));
      }
      // Ranks may share cores: who waits for long leaves them to those who compute.
      if (now - begin < std::chrono::milliseconds(1)) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    }
  }

  void take_notice() noexcept {
    if (notice_request_ == MPI_REQUEST_NULL) return;
    int done = 0;
    MPI_Status status;
    if (MPI_Test(&notice_request_, &done, &status) != MPI_SUCCESS || done == 0) return;
    notice_.back() = std::byte{0};
    record_failure(status.MPI_SOURCE, static_cast<Failure>(notice_[0]),
                   reinterpret_cast<const char*>(notice_.data() + 1));
  }

  /// The first counts.
  void record_failure(int rank, Failure failure, const std::string& reason) {
    if (failed_rank_ >= 0) return;
    failed_rank_ = rank;
    failure_kind_ = failure;
    failure_ = reason;
  }

  void throw_failure() const {
    if (failed_rank_ < 0) return;
    if (failure_kind_ == Failure::peer_lost) throw PeerLost(failure_);
    throw MemberFailed("ring member " + std::to_string(failed_rank_) + " failed: " + failure_);
  }

  CommunicatorOptions options_;
  std::size_t largest_piece_;
  MPI_Comm messages_ = MPI_COMM_NULL, notices_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  Notice notice_{};
  MPI_Request notice_request_ = MPI_REQUEST_NULL;
  std::unique_ptr<Notice> sent_notice_;
  std::vector<MPI_Request> notice_sends_;
  int failed_rank_ = -1;
  Failure failure_kind_ = Failure::error;
  std::string failure_;
};

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
