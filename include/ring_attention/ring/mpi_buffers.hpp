// Memory of messages over MPI, and the persistent requests that move it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <ring_attention/aligned_block.hpp>
#include <ring_attention/ring/mpi_calls.hpp>
#include <ring_attention/ring/shared_memory.hpp>
#include <span>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// The pieces of one message: persistent requests of one buffer, direction, peer and tag.
struct MpiRoute {
  bool receives;
  int peer;
  int tag;
  std::size_t bytes;
  std::vector<MPI_Request> pieces;
  std::size_t started = 0, done = 0;  ///< pieces of the message under way
  std::uint64_t received = 0;
};

/// Memory for one message at a time. Requests are made once for each peer, tag and size that it serves, so
/// that the next call of the same shape only starts them.
class MpiBuffer {
 public:
  MpiBuffer(bool shared, std::int64_t number) : shared_(shared), number_(number) {}
  MpiBuffer(const MpiBuffer&) = delete;
  MpiBuffer& operator=(const MpiBuffer&) = delete;
  ~MpiBuffer() { free_routes(); }

  bool shared() const { return shared_; }
  /// Tells the buffers of a rank apart.
  std::int64_t number() const { return number_; }
  std::size_t capacity() const { return shared_ ? memory_.bytes().size() : block_.size(); }
  std::byte* data() { return shared_ ? memory_.bytes().data() : block_.reserve(0); }
  SharedMemoryName name() const { return memory_.name(); }
  /// Counts the memories that the buffer had: a name may come back for another memory.
  std::int64_t version() const { return version_; }

  void reserve(std::size_t bytes) {
    if (bytes <= capacity()) return;
    free_routes();
    if (shared_) {
      memory_ = SharedMemory();
      memory_ = SharedMemory::create(bytes);
    } else {
      block_.reserve(bytes);
    }
    ++version_;
  }

  /// MPI keeps the pieces of one peer and tag in order. An empty message is a piece, too.
  MpiRoute& route(MPI_Comm communicator, bool receives, int peer, int tag, std::size_t bytes,
                  std::size_t largest_piece) {
    for (const auto& route : routes_) {
      if (route->receives == receives && route->peer == peer && route->tag == tag && route->bytes == bytes) {
        return *route;
      }
    }
    if (routes_.size() >= max_routes) free_routes();
    auto made = std::make_unique<MpiRoute>(MpiRoute{receives, peer, tag, bytes, {}, 0, 0, 0});
    std::size_t first = 0;
    do {
      const auto count = static_cast<int>((std::min)(largest_piece, bytes - first));
      MPI_Request& piece = made->pieces.emplace_back(MPI_REQUEST_NULL);
      if (receives) {
        check_mpi(MPI_Recv_init(data() + first, count, MPI_BYTE, peer, tag, communicator, &piece),
                  "MPI_Recv_init");
      } else {
        check_mpi(MPI_Send_init(data() + first, count, MPI_BYTE, peer, tag, communicator, &piece),
                  "MPI_Send_init");
      }
      first += static_cast<std::size_t>(count);
    } while (first < bytes);
    return *routes_.emplace_back(std::move(made));
  }

 private:
  static constexpr std::size_t max_routes = 1024;

  void free_routes() noexcept {
    for (const auto& route : routes_) {
      for (MPI_Request& piece : route->pieces) {
        if (piece != MPI_REQUEST_NULL) MPI_Request_free(&piece);
      }
    }
    routes_.clear();
  }

  bool shared_;
  std::int64_t number_;
  Block block_;
  SharedMemory memory_;
  std::int64_t version_ = 0;
  std::vector<std::unique_ptr<MpiRoute>> routes_;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
