// The first ranks of an MPI job as a communicator of their own, and what benchmarks ask of it.
#pragma once

#include <unistd.h>

#include <chrono>
#include <ring_attention/mpi.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace benchmarks {

namespace ra = ring_attention;

inline void check_mpi(int code, const char* call) {
  if (code != MPI_SUCCESS) throw std::runtime_error(std::string(call) + " failed");
}

/// Waits for all ranks without taking the cores of those that compute, as MPI_Barrier may; looks at
/// intervals.
inline void quiet_barrier(MPI_Comm communicator,
                          std::chrono::microseconds interval = std::chrono::microseconds(50)) {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Ibarrier(communicator, &request), "MPI_Ibarrier");
  for (int done = 0; done == 0;) {
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    if (done == 0) std::this_thread::sleep_for(interval);
  }
}

/// The first `size` ranks of MPI_COMM_WORLD. Construction and destruction are collective over all of them.
class MpiGroup {
 public:
  explicit MpiGroup(int size) {
    int world_rank = 0;
    check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &world_rank), "MPI_Comm_rank");
    check_mpi(
        MPI_Comm_split(MPI_COMM_WORLD, world_rank < size ? 0 : MPI_UNDEFINED, world_rank, &communicator_),
        "MPI_Comm_split");
    if (!member()) return;
    check_mpi(MPI_Comm_rank(communicator_, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(communicator_, &size_), "MPI_Comm_size");
    MPI_Comm node = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split_type(communicator_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node),
              "MPI_Comm_split_type");
    int node_rank = 0;
    check_mpi(MPI_Comm_rank(node, &node_rank), "MPI_Comm_rank");
    check_mpi(MPI_Comm_free(&node), "MPI_Comm_free");
    const int own = node_rank == 0 ? static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)) : 0;
    check_mpi(MPI_Allreduce(&own, &cores_, 1, MPI_INT, MPI_SUM, communicator_), "MPI_Allreduce");
  }
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;
  ~MpiGroup() {
    if (member()) MPI_Comm_free(&communicator_);
  }

  /// Others have nothing to do.
  bool member() const { return communicator_ != MPI_COMM_NULL; }
  MPI_Comm communicator() const { return communicator_; }
  int rank() const { return rank_; }
  int size() const { return size_; }
  int cores() const { return cores_; }  ///< of all nodes

  /// Collective: every rank's value, on every rank.
  std::vector<double> gather(double value) const {
    std::vector<double> values(static_cast<std::size_t>(size_));
    check_mpi(MPI_Allgather(&value, 1, MPI_DOUBLE, values.data(), 1, MPI_DOUBLE, communicator_),
              "MPI_Allgather");
    return values;
  }

 private:
  MPI_Comm communicator_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1, cores_ = 1;
};

}  // namespace benchmarks
