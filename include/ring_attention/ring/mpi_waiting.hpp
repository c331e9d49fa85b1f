// Waiting for MPI within a timeout, and collective calls that do so.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <numeric>
#include <ring_attention/ring/communicator.hpp>
#include <ring_attention/ring/mpi_calls.hpp>
#include <ring_attention/ring/mpi_notices.hpp>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// What a rank waits with: never longer than the timeout, and no longer than until a rank gives up.
class MpiWaiting {
 public:
  static constexpr int everyone = -1;

  explicit MpiWaiting(std::chrono::milliseconds timeout) : timeout_(timeout) {}

  int rank = 0;
  MpiNotices notices;

  std::chrono::milliseconds timeout() const { return timeout_; }

  template <class Condition>
  void wait_until(const Condition& condition, int peer) {
    constexpr std::chrono::milliseconds longest =
        std::chrono::hours(24 * 365);  // the clock's range is finite
    if (condition()) return;
    const auto begin = std::chrono::steady_clock::now();
    const auto deadline = begin + (std::min)(timeout_, longest);
    while (!condition()) {
      notices.take();
      notices.throw_failure();
      const auto now = std::chrono::steady_clock::now();
      if (now >= deadline) {
        throw PeerLost("ring member " + std::to_string(rank) + " waited " + std::to_string(timeout_.count()) +
                       " ms in vain for " +
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

  /// A duplicate of the communicator whose errors are returned. Collective.
  MPI_Comm duplicate(MPI_Comm communicator) {
    struct Duplicating {
      MPI_Comm made = MPI_COMM_NULL;
      MPI_Request request = MPI_REQUEST_NULL;
    };
    // Outlives the call where a rank is lost, as what is gathered does: MPI may still write to it.
    auto duplicating = std::make_unique<Duplicating>();
    check_mpi(MPI_Comm_idup(communicator, &duplicating->made, &duplicating->request), "MPI_Comm_idup");
    try {
      wait_until([&] { return test_mpi(duplicating->request); }, everyone);
    } catch (...) {
      leave_to_mpi(std::move(duplicating));
      throw;
    }
    check_mpi(MPI_Comm_set_errhandler(duplicating->made, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    return duplicating->made;
  }

  /// The bytes of every rank. Collective.
  std::vector<std::vector<std::byte>> all_gather(MPI_Comm communicator, std::span<const std::byte> mine) {
    notices.throw_failure();
    auto gathering = std::make_unique<Gathering>();
    try {
      return gather(communicator, *gathering, mine);
    } catch (...) {
      if (gathering->request != MPI_REQUEST_NULL) leave_to_mpi(std::move(gathering));
      throw;
    }
  }

 private:
  struct Gathering {
    std::vector<int> sizes, places;
    std::vector<std::byte> mine, all;
    int size = 0;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  std::vector<std::vector<std::byte>> gather(MPI_Comm communicator, Gathering& gathering,
                                             std::span<const std::byte> mine) {
    int size = 0;
    check_mpi(MPI_Comm_size(communicator, &size), "MPI_Comm_size");
    gathering.mine.assign(mine.begin(), mine.end());
    gathering.size = static_cast<int>(mine.size());
    gathering.sizes.resize(static_cast<std::size_t>(size));
    gathering.places.resize(static_cast<std::size_t>(size));
    check_mpi(MPI_Iallgather(&gathering.size, 1, MPI_INT, gathering.sizes.data(), 1, MPI_INT, communicator,
                             &gathering.request),
              "MPI_Iallgather");
    wait_until([&] { return test_mpi(gathering.request); }, everyone);
    std::exclusive_scan(gathering.sizes.begin(), gathering.sizes.end(), gathering.places.begin(), 0);
    gathering.all.resize(static_cast<std::size_t>(gathering.places.back()) +
                         static_cast<std::size_t>(gathering.sizes.back()));
    check_mpi(MPI_Iallgatherv(gathering.mine.data(), gathering.size, MPI_BYTE, gathering.all.data(),
                              gathering.sizes.data(), gathering.places.data(), MPI_BYTE, communicator,
                              &gathering.request),
              "MPI_Iallgatherv");
    wait_until([&] { return test_mpi(gathering.request); }, everyone);
    std::vector<std::vector<std::byte>> parts;
    for (std::size_t i = 0; i < gathering.sizes.size(); ++i) {
      const std::byte* first = gathering.all.data() + gathering.places[i];
      parts.emplace_back(first, first + gathering.sizes[i]);
    }
    return parts;
  }

  std::chrono::milliseconds timeout_;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
