// How a rank's failure reaches the others over MPI.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <ring_attention/ring/communicator.hpp>
#include <ring_attention/ring/mpi_calls.hpp>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// What a failed ring still waits for, all in all, before it leaves requests to MPI.
class MpiGrace {
 public:
  /// Whether all requests ended in time.
  bool finish(std::span<MPI_Request> requests) noexcept {
    const auto now = std::chrono::steady_clock::now;
    for (;;) {
      int done = 0;
      if (MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE) !=
          MPI_SUCCESS) {
        return false;
      }
      if (done != 0) return true;
      if (!begun_) end_ = now() + length;
      begun_ = true;
      if (now() > end_) return false;
      std::this_thread::yield();
    }
  }

 private:
  static constexpr std::chrono::milliseconds length{200};
  bool begun_ = false;
  std::chrono::steady_clock::time_point end_;
};

/// The first failure of a ring, and the messages that spread it, on an MPI communicator of their own: a
/// reason must not meet the receive of a message.
class MpiNotices {
 public:
  MpiNotices() = default;
  MpiNotices(const MpiNotices&) = delete;
  MpiNotices& operator=(const MpiNotices&) = delete;

  /// Takes the communicator, and begins to listen. Takes the memory that a failure needs, too: there may be
  /// none then.
  void open(MPI_Comm communicator) {
    int size = 0;
    check_mpi(MPI_Comm_size(communicator, &size), "MPI_Comm_size");
    sent_ = std::make_unique<Notice>();
    sends_.reserve(static_cast<std::size_t>(size));
    communicator_ = communicator;
    check_mpi(MPI_Irecv(notice_.data(), static_cast<int>(notice_.size()), MPI_BYTE, MPI_ANY_SOURCE, 0,
                        communicator_, &listening_),
              "MPI_Irecv");
  }

  /// Stops to listen; collective, but for a ring that failed, whose communicator is left as it is.
  void close(MpiGrace& grace) noexcept {
    if (listening_ != MPI_REQUEST_NULL) {
      MPI_Cancel(&listening_);
      MPI_Wait(&listening_, MPI_STATUS_IGNORE);
    }
    if (communicator_ == MPI_COMM_NULL) return;
    if (!failed()) {
      MPI_Comm_free(&communicator_);
    } else if (!grace.finish(sends_)) {
      leave_to_mpi(std::move(sent_));
    }
  }

  /// Whether this rank or one that it heard of gave up.
  bool failed() const { return failed_rank_ >= 0; }

  void throw_failure() const {
    if (!failed()) return;
    if (kind_ == Failure::peer_lost) throw PeerLost(reason_);
    throw MemberFailed("ring member " + std::to_string(failed_rank_) + " failed: " + reason_);
  }

  /// Listens once.
  void take() noexcept {
    if (listening_ == MPI_REQUEST_NULL) return;
    int done = 0;
    MPI_Status status;
    if (MPI_Test(&listening_, &done, &status) != MPI_SUCCESS || done == 0) return;
    notice_.back() = std::byte{0};
    record(status.MPI_SOURCE, static_cast<Failure>(notice_[0]),
           reinterpret_cast<const char*>(notice_.data() + 1));
  }

  /// Tells the others that this rank gives up. The first failure counts.
  void tell(int rank, int size, const std::string& reason, Failure failure) {
    if (failed()) return;
    record(rank, failure, reason);
    Notice& notice = *sent_;
    notice[0] = static_cast<std::byte>(failure);
    std::memcpy(notice.data() + 1, reason.data(), (std::min)(reason.size(), notice.size() - 2));
    for (int peer = 0; peer < size; ++peer) {
      if (peer == rank) continue;
      MPI_Request& request = sends_.emplace_back(MPI_REQUEST_NULL);
      // Who can no longer be reached learns of it by the timeout.
      if (MPI_Isend(notice.data(), static_cast<int>(notice.size()), MPI_BYTE, peer, 0, communicator_,
                    &request) != MPI_SUCCESS) {
        sends_.pop_back();
      }
    }
  }

 private:
  using Notice = std::array<std::byte, 1024>;  // why, and the reason's text, ended by 0

  void record(int rank, Failure failure, std::string_view reason) {
    if (failed()) return;
    kind_ = failure;
    failed_rank_ = rank;
    try {
      reason_ = reason;
    } catch (const std::bad_alloc&) {
      // Without memory for the reason the failure counts all the same.
    }
  }

  MPI_Comm communicator_ = MPI_COMM_NULL;
  Notice notice_{};
  MPI_Request listening_ = MPI_REQUEST_NULL;
  std::unique_ptr<Notice> sent_;
  std::vector<MPI_Request> sends_;
  int failed_rank_ = -1;
  Failure kind_ = Failure::error;
  std::string reason_;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
