// The ranks of one machine, which share memory.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <numeric>
#include <random>
#include <ring_attention/pattern/xxh64.hpp>
#include <ring_attention/ring/mpi_calls.hpp>
#include <ring_attention/ring/mpi_waiting.hpp>
#include <ring_attention/ring/node_patterns.hpp>
#include <ring_attention/ring/shared_memory.hpp>
#include <span>
#include <string>
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
  ///
  /// Machines are told apart by their names and when they started, not by MPI_Comm_split_type: that blocks,
  /// and a rank that is lost in it would hold up the others for ever.
  MpiNode(MpiWaiting& waiting, MPI_Comm communicator, MPI_Comm given)
      : patterns((std::min)(std::chrono::milliseconds(1000), waiting.timeout() / 4)) {
    // The first rank's holds the directory of patterns.
    constexpr std::size_t token_place = sizeof(NodePatterns::Directory);
    SharedMemory own, directory;
    Greeting greeting;
    greeting.machine = machine();
    try {
      own = SharedMemory::create(token_place + sizeof greeting.token);
      std::random_device random;
      greeting.token = (static_cast<std::uint64_t>(random()) << 32) | random();
      std::memcpy(own.bytes().data() + token_place, &greeting.token, sizeof greeting.token);
      greeting.name = own.name();
    } catch (const std::system_error&) {
      // Without a name nobody finds it.
    }
    std::vector<Greeting> greetings;
    for (const auto& bytes : waiting.all_gather(communicator, std::as_bytes(std::span(&greeting, 1)))) {
      std::memcpy(&greetings.emplace_back(), bytes.data(), sizeof greeting);
    }
    std::vector<int> ranks;
    if (given == MPI_COMM_NULL) {
      for (std::size_t rank = 0; rank < greetings.size(); ++rank) {
        if (greetings[rank].machine == greeting.machine) ranks.push_back(static_cast<int>(rank));
      }
    } else {
      ranks = ranks_of(communicator, given);
    }
    std::byte found_all{1};
    for (const int rank : ranks) {
      const Greeting& other = greetings[static_cast<std::size_t>(rank)];
      try {
        SharedMemory memory = SharedMemory::attach(other.name);
        std::uint64_t token = 0;
        std::memcpy(&token, memory.bytes().data() + token_place, sizeof token);
        if (token != other.token) found_all = std::byte{0};
        if (rank == ranks.front()) directory = std::move(memory);
      } catch (const std::system_error&) {
        found_all = std::byte{0};
      }
    }
    const auto found = waiting.all_gather(communicator, std::span(&found_all, 1));
    for (const int rank : ranks) {
      if (found[static_cast<std::size_t>(rank)].front() == std::byte{0}) return;
    }
    if (ranks.size() < 2) return;
    shares_.assign(greetings.size(), false);
    for (const int rank : ranks) shares_[static_cast<std::size_t>(rank)] = rank != waiting.rank;
    patterns.share(std::move(directory));
  }

  bool shares_memory_with(int rank) const {
    return static_cast<std::size_t>(rank) < shares_.size() && shares_[static_cast<std::size_t>(rank)];
  }

  NodePatterns patterns;

 private:
  struct Greeting {
    SharedMemoryName name;
    std::uint64_t token = 0;  // tells the memory from another that a foreign process has under the name
    std::uint64_t machine = 0;
  };

  static std::uint64_t machine() {
    char name[MPI_MAX_PROCESSOR_NAME] = {};
    int length = 0;
    check_mpi(MPI_Get_processor_name(name, &length), "MPI_Get_processor_name");
    std::string text(name, static_cast<std::size_t>(length));
    std::string started;
    std::ifstream("/proc/sys/kernel/random/boot_id") >> started;
    text.append(1, ' ').append(started);
    return xxh64(std::as_bytes(std::span(text)));
  }

  /// The ranks of `part`, ascending, as `whole` counts them; those of a part of `whole` are in it.
  static std::vector<int> ranks_of(MPI_Comm whole, MPI_Comm part) {
    MPI_Group whole_group = MPI_GROUP_NULL, part_group = MPI_GROUP_NULL;
    check_mpi(MPI_Comm_group(whole, &whole_group), "MPI_Comm_group");
    check_mpi(MPI_Comm_group(part, &part_group), "MPI_Comm_group");
    int size = 0;
    check_mpi(MPI_Group_size(part_group, &size), "MPI_Group_size");
    std::vector<int> own(static_cast<std::size_t>(size)), ranks(own.size());
    std::iota(own.begin(), own.end(), 0);
    check_mpi(MPI_Group_translate_ranks(part_group, size, own.data(), whole_group, ranks.data()),
              "MPI_Group_translate_ranks");
    MPI_Group_free(&part_group);
    MPI_Group_free(&whole_group);
    std::erase(ranks, MPI_UNDEFINED);
    std::sort(ranks.begin(), ranks.end());
    return ranks;
  }

  std::vector<bool> shares_;  // by rank
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
