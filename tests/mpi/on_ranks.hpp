// Members that are the ranks of MPI_COMM_WORLD, or the first of them: every rank makes the same calls and
// holds the whole tensors.
#pragma once

#include <chrono>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <ring_attention/ring/mpi_communicator.hpp>
#include <ring_attention/ring/shared_memory.hpp>
#include <ring_attention/tensor.hpp>
#include <system_error>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"
#include "support/random_case.hpp"

namespace test {

namespace ra = ring_attention;

inline int world_rank() {
  int rank = 0;
  ra::detail::check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank");
  return rank;
}
inline int world_size() {
  int size = 1;
  ra::detail::check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  return size;
}

/// Collective: whether this system lets the ranks map each other's memory, without which rings use messages.
inline bool processes_share_memory() {
  using ra::detail::SharedMemory;
  int found = 1;
  try {
    const SharedMemory own = SharedMemory::create(1);
    ra::detail::SharedMemoryName name = own.name();
    MPI_Bcast(&name, sizeof name, MPI_BYTE, 0, MPI_COMM_WORLD);
    try {
      (void)SharedMemory::attach(name);
    } catch (const std::system_error&) {
      found = 0;
    }
    MPI_Barrier(MPI_COMM_WORLD);  // the first rank's memory lives so long
  } catch (const std::system_error&) {
    found = 0;
  }
  int everywhere = 0;
  MPI_Allreduce(&found, &everywhere, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  if (everywhere == 0) WARN("skipped: processes cannot map each other's memory here");
  return everywhere != 0;
}

/// A random case of as many members as there are ranks.
inline RandomCase case_on_ranks(std::uint64_t seed) {
  RandomCase c = make_random_case(seed, 1e6);
  c.config.ring_size = world_size();
  return c;
}

class OnRanks {
 public:
  using Communicator = ra::MpiCommunicator;

  explicit OnRanks(ra::MpiOptions options = {}) : options_(options) {}

  int members() const { return world_size(); }
  template <class Body>
  void run(const Body& body) const {
    Communicator communicator(MPI_COMM_WORLD, {.timeout = std::chrono::minutes(2)}, options_);
    body(communicator);
  }
  /// Every rank wrote its own rows of a tensor that held zeros.
  template <class T>
  void unite(const ra::TensorView<T>& tensor) const {
    const ra::Shape shape = tensor.shape();
    std::vector<T> rows;
    rows.reserve(static_cast<std::size_t>(tensor.size()));
    const auto for_each_row = [&](const auto& visit) {
      for (std::int64_t b = 0; b < shape[0]; ++b)
        for (std::int64_t n = 0; n < shape[1]; ++n)
          for (std::int64_t h = 0; h < shape[2]; ++h) visit(tensor.row(b, n, h));
    };
    for_each_row([&](const T* row) { rows.insert(rows.end(), row, row + shape[3]); });
    const std::size_t bytes = rows.size() * sizeof(T);
    if (bytes > static_cast<std::size_t>(INT_MAX)) throw std::length_error("too large for a test");
    ra::detail::check_mpi(
        MPI_Allreduce(MPI_IN_PLACE, rows.data(), static_cast<int>(bytes), MPI_BYTE, MPI_BOR, MPI_COMM_WORLD),
        "MPI_Allreduce");
    const T* next = rows.data();
    for_each_row([&](T* row) {
      std::copy_n(next, shape[3], row);
      next += shape[3];
    });
  }

 private:
  ra::MpiOptions options_;
};

/// MPI_COMM_WORLD in parts of `ranks` ranks: machines, for tests.
class Machines {
 public:
  explicit Machines(int ranks) {
    ra::detail::check_mpi(MPI_Comm_split(MPI_COMM_WORLD, world_rank() / ranks, 0, &mine_), "MPI_Comm_split");
  }
  Machines(const Machines&) = delete;
  Machines& operator=(const Machines&) = delete;
  ~Machines() { MPI_Comm_free(&mine_); }

  MPI_Comm mine() const { return mine_; }

 private:
  MPI_Comm mine_ = MPI_COMM_NULL;
};

}  // namespace test
