// The first ranks of an MPI job as a communicator of their own, and what benchmarks ask of it.
#pragma once

#include <unistd.h>

#include <chrono>
#include <ring_attention/ring/mpi_calls.hpp>
#include <string>
#include <thread>
#include <vector>

namespace benchmarks {

namespace ra = ring_attention;

/// Waits for all ranks without taking the cores of those that compute, as MPI_Barrier may; looks at
/// intervals.
inline void quiet_barrier(MPI_Comm communicator,
                          std::chrono::microseconds interval = std::chrono::microseconds(50)) {
  MPI_Request request = MPI_REQUEST_NULL;
  ra::detail::check_mpi(MPI_Ibarrier(communicator, &request), "MPI_Ibarrier");
  while (!ra::detail::test_mpi(request)) std::this_thread::sleep_for(interval);
}

/// The first `size` ranks of MPI_COMM_WORLD. Construction and destruction are collective over all of them.
class MpiGroup {
 public:
  explicit MpiGroup(int size) {
    int world_rank = 0;
    ra::detail::check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &world_rank), "MPI_Comm_rank");
    ra::detail::check_mpi(
        MPI_Comm_split(MPI_COMM_WORLD, world_rank < size ? 0 : MPI_UNDEFINED, world_rank, &communicator_),
        "MPI_Comm_split");
    if (!member()) return;
    ra::detail::check_mpi(MPI_Comm_rank(communicator_, &rank_), "MPI_Comm_rank");
    ra::detail::check_mpi(MPI_Comm_size(communicator_, &size_), "MPI_Comm_size");
    MPI_Comm node = MPI_COMM_NULL;
    ra::detail::check_mpi(
        MPI_Comm_split_type(communicator_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node),
        "MPI_Comm_split_type");
    int node_rank = 0;
    ra::detail::check_mpi(MPI_Comm_rank(node, &node_rank), "MPI_Comm_rank");
    ra::detail::check_mpi(MPI_Comm_free(&node), "MPI_Comm_free");
    const int counts[2] = {node_rank == 0,
                           node_rank == 0 ? static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)) : 0};
    int sums[2] = {};
    ra::detail::check_mpi(MPI_Allreduce(counts, sums, 2, MPI_INT, MPI_SUM, communicator_), "MPI_Allreduce");
    nodes_ = sums[0];
    cores_ = sums[1];
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
  int nodes() const { return nodes_; }
  int cores() const { return cores_; }  ///< of all nodes

  /// Collective: every rank's value, on every rank.
  std::vector<double> gather(double value) const {
    std::vector<double> values(static_cast<std::size_t>(size_));
    ra::detail::check_mpi(MPI_Allgather(&value, 1, MPI_DOUBLE, values.data(), 1, MPI_DOUBLE, communicator_),
                          "MPI_Allgather");
    return values;
  }

 private:
  MPI_Comm communicator_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1, nodes_ = 1, cores_ = 1;
};

inline std::string mpi_library_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  ra::detail::check_mpi(MPI_Get_library_version(text, &length), "MPI_Get_library_version");
  const std::string version(text);  // the length counts the terminating zero in some libraries
  return version.substr(0, version.find('\n'));
}

}  // namespace benchmarks
