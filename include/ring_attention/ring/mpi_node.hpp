// The ranks of one machine, which share memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <ring_attention/ring/mpi_calls.hpp>
#include <ring_attention/ring/mpi_waiting.hpp>
#include <ring_attention/ring/node_patterns.hpp>
#include <ring_attention/ring/shared_memory.hpp>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

class MpiNode {
 public:
  /// No neighbours.
  MpiNode() = default;

  /// Finds the ranks of this rank's machine, or takes those of `given`, and whether they can map each other's
  /// memory: all of them, or none, as containers may hide processes from one another. Collective over
  /// `communicator`, whose ranks it counts by.
  MpiNode(MpiWaiting& waiting, MPI_Comm communicator, MPI_Comm given) {
    MPI_Comm node = MPI_COMM_NULL;
    if (given == MPI_COMM_NULL) {
      check_mpi(MPI_Comm_split_type(communicator, MPI_COMM_TYPE_SHARED, waiting.rank, MPI_INFO_NULL, &node),
                "MPI_Comm_split_type");
    } else {
      node = waiting.duplicate(given);
    }
    try {
      share_memory(waiting, node);
    } catch (...) {
      MPI_Comm_free(&node);
      throw;
    }
    MPI_Comm_free(&node);
  }

  bool shares_memory_with(int rank) const {
    return static_cast<std::size_t>(rank) < shares_.size() && shares_[static_cast<std::size_t>(rank)];
  }

  NodePatterns patterns;

 private:
  struct Greeting {
    SharedMemoryName name;
    std::uint64_t token = 0;  // tells the memory from another that a foreign process has under the name
    int rank = 0;
  };

  void share_memory(MpiWaiting& waiting, MPI_Comm node) {
    // The first rank's holds the directory of patterns.
    constexpr std::size_t token_place = sizeof(NodePatterns::Directory);
    SharedMemory own, directory;
    Greeting greeting;
    greeting.rank = waiting.rank;
    try {
      own = SharedMemory::create(token_place + sizeof greeting.token);
      std::random_device random;
      greeting.token = (static_cast<std::uint64_t>(random()) << 32) | random();
      std::memcpy(own.bytes().data() + token_place, &greeting.token, sizeof greeting.token);
      greeting.name = own.name();
    } catch (const std::system_error&) {
      // Without a name nobody finds it.
    }
    std::vector<int> ranks;
    std::byte found_all{1};
    for (const auto& bytes : waiting.all_gather(node, std::as_bytes(std::span(&greeting, 1)))) {
      Greeting other;
      std::memcpy(&other, bytes.data(), sizeof other);
      try {
        SharedMemory memory = SharedMemory::attach(other.name);
        std::uint64_t token = 0;
        std::memcpy(&token, memory.bytes().data() + token_place, sizeof token);
        if (token != other.token) found_all = std::byte{0};
        if (ranks.empty()) directory = std::move(memory);
      } catch (const std::system_error&) {
        found_all = std::byte{0};
      }
      ranks.push_back(other.rank);
    }
    for (const auto& found : waiting.all_gather(node, std::span(&found_all, 1))) {
      if (found.front() == std::byte{0}) return;
    }
    if (ranks.size() == 1) return;
    for (const int rank : ranks) {
      if (rank == waiting.rank) continue;
      if (shares_.size() <= static_cast<std::size_t>(rank))
        shares_.resize(static_cast<std::size_t>(rank) + 1);
      shares_[static_cast<std::size_t>(rank)] = true;
    }
    patterns = NodePatterns(std::move(directory));
  }

  std::vector<bool> shares_;  // by rank
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
