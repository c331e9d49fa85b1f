// A ring whose members are the ranks of an MPI communicator.
#pragma once

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <ring_attention/pattern/pattern_cache.hpp>
#include <ring_attention/ring/communicator.hpp>
#include <ring_attention/ring/mpi_buffers.hpp>
#include <ring_attention/ring/mpi_calls.hpp>
#include <ring_attention/ring/mpi_notices.hpp>
#include <ring_attention/ring/node_patterns.hpp>
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

struct MpiOptions {
  /// Larger messages travel in pieces of so many bytes: MPI counts an int. Equal on all ranks.
  std::size_t largest_piece = std::size_t{1} << 30;
  /// Ranks that share memory: MPI_COMM_NULL finds those of a machine (MPI_Comm_split_type), MPI_COMM_SELF
  /// shares none. Stays the caller's.
  MPI_Comm node = MPI_COMM_NULL;
};

/// A rank's end of a ring over the ranks of an MPI communicator, which stays the caller's: messages travel in
/// duplicates of it, so that they never meet the caller's.
///
/// Ranks of one machine read each other's messages where they were packed, in shared memory, and share
/// patterns; between machines, and where a system does not let processes share memory, MPI moves the bytes.
/// Buffers and MPI's persistent requests are kept from call to call: four messages at a time in forward,
/// eight in backward.
///
/// MPI makes progress while this thread waits, and where the engine calls `progress` between two tiles; no
/// thread is added, so that MPI_THREAD_FUNNELED is enough. One thread uses the object, the one that may call
/// MPI.
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
  struct Outgoing : Place {
    std::span<std::byte> bytes() { return bytes_; }
  };
  struct Incoming : Place {
    std::span<const std::byte> bytes() const { return bytes_; }
  };

  /// Collective over `communicator`, an intra-communicator. Throws std::invalid_argument for a negative
  /// timeout or a piece of 0 or more than 2^31 - 1 bytes, std::logic_error where MPI is not running or was
  /// initialised without MPI_THREAD_FUNNELED, MpiError where MPI fails, and PeerLost where a rank does not
  /// take part in time.
  explicit MpiCommunicator(MPI_Comm communicator, CommunicatorOptions options = {}, MpiOptions mpi = {})
      : options_(options), largest_piece_(mpi.largest_piece) {
    options.validate();
    if (largest_piece_ == 0 || largest_piece_ > static_cast<std::size_t>(INT_MAX)) {
      detail::throw_invalid("largest_piece", std::to_string(largest_piece_), "must lie in [1, 2^31)");
    }
    detail::require_mpi();
    int between_groups = 0;
    detail::check_mpi(MPI_Comm_test_inter(communicator, &between_groups), "MPI_Comm_test_inter");
    if (between_groups != 0)
      detail::throw_invalid("communicator", "inter-communicator", "must have one group");
    detail::check_mpi(MPI_Comm_rank(communicator, &rank_), "MPI_Comm_rank");
    detail::check_mpi(MPI_Comm_size(communicator, &size_), "MPI_Comm_size");
    messages_ = duplicate(communicator);
    const MPI_Comm notices = duplicate(communicator);
    shares_.assign(static_cast<std::size_t>(size_), false);
    if (size_ > 1) meet_neighbours(mpi.node);
    notices_.open(notices);  // last: from here on MPI writes to this object
  }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  /// Collective, but for a ring that failed, whose MPI communicators are left as they are.
  ~MpiCommunicator() {
    int finalized = 0;
    if (MPI_Finalized(&finalized) != MPI_SUCCESS || finalized != 0) return;
    buffers_.clear();
    notices_.close();
    if (!notices_.failed()) MPI_Comm_free(&messages_);
  }

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// Whether messages of that rank are read in shared memory; both sides say the same.
  bool shares_memory_with(int peer) const { return shares_[static_cast<std::size_t>(peer)]; }

  void prepare(Outgoing& message, int peer, int tag, std::size_t bytes) {
    wait(message);
    assign(message, peer, tag, bytes, shares_memory_with(peer));
    message.bytes_ = {message.buffer_->data(), bytes};
    message.stage_ = Stage::prepared;
  }

  void send(Outgoing& message) {
    notices_.throw_failure();
    message.lent_ = shares_memory_with(message.peer_);
    message.stage_ = Stage::under_way;
    if (!message.lent_) return start_route(message, false);
    const detail::MpiBuffer& buffer = *message.buffer_;
    *message.loan_ = {buffer.name(), buffer.number(), buffer.version(), message.bytes_.size()};
    detail::check_mpi(MPI_Irecv(nullptr, 0, MPI_BYTE, message.peer_, message.tag_ + return_tag, messages_,
                                &message.return_request_),
                      "MPI_Irecv");
    detail::check_mpi(MPI_Isend(message.loan_.get(), sizeof(Loan), MPI_BYTE, message.peer_, message.tag_,
                                messages_, &message.loan_request_),
                      "MPI_Isend");
  }

  void wait(Outgoing& message) {
    if (message.stage_ != Stage::under_way) return;
    if (message.lent_) {
      wait_until([&] { return detail::test_mpi(message.loan_request_); }, message.peer_);
      wait_until([&] { return detail::test_mpi(message.return_request_); }, message.peer_);
    } else {
      wait_until([&] { return is_done(*message.route_); }, message.peer_);
    }
    message.stage_ = Stage::empty;
  }

  void expect(Incoming& message, int peer, int tag, std::size_t bytes) {
    notices_.throw_failure();
    message.lent_ = shares_memory_with(peer);
    if (message.lent_) {
      start(message, peer, tag);
      message.bytes_ = {static_cast<std::byte*>(nullptr), bytes};
      detail::check_mpi(MPI_Irecv(message.loan_.get(), sizeof(Loan), MPI_BYTE, peer, tag, messages_,
                                  &message.loan_request_),
                        "MPI_Irecv");
    } else {
      assign(message, peer, tag, bytes, false);
      message.bytes_ = {message.buffer_->data(), bytes};
      start_route(message, true);
    }
    message.stage_ = Stage::under_way;
  }

  void wait(Incoming& message) {
    if (message.stage_ != Stage::under_way) return;
    if (message.lent_) {
      wait_until([&] { return detail::test_mpi(message.loan_request_); }, message.peer_);
      require_size(message.loan_->bytes, message.bytes_.size());
      message.bytes_ = borrow(message.peer_, *message.loan_);
    } else {
      wait_until([&] { return is_done(*message.route_); }, message.peer_);
    }
    message.stage_ = Stage::arrived;
  }

  void release(Incoming& message) {
    if (message.stage_ == Stage::arrived && message.lent_) {
      wait_until([&] { return detail::test_mpi(message.return_request_); }, message.peer_);
      detail::check_mpi(MPI_Isend(nullptr, 0, MPI_BYTE, message.peer_, message.tag_ + return_tag, messages_,
                                  &message.return_request_),
                        "MPI_Isend");
      message.bytes_ = {};
    }
    if (message.stage_ == Stage::arrived) message.stage_ = Stage::empty;
  }

  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) {
    return all_gather(messages_, mine);
  }

  void fail(const std::string& reason, Failure failure = Failure::error) {
    notices_.tell(rank_, size_, reason, failure);
  }

  /// Lets MPI move what is under way; never throws. The engine calls it between two tiles.
  void progress() noexcept { notices_.take(); }

  /// Computes a pattern, or maps the one that another rank of this machine computed.
  PatternCache::Pattern dilated_indices(const PatternKey& key) { return patterns_.find_or_compute(key); }

 private:
  struct Gathering {
    std::vector<int> sizes, places;
    std::vector<std::byte> mine, all;
    int size = 0;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  struct Borrowed {
    std::int64_t version = 0;
    detail::SharedMemory memory;
  };
  static constexpr int everyone = -1;
  static constexpr int return_tag = 1 << 10;  // what is lent comes back with the message's tag and this

  MPI_Comm duplicate(MPI_Comm communicator) {
    MPI_Comm duplicate = MPI_COMM_NULL;
    MPI_Request request = MPI_REQUEST_NULL;
    detail::check_mpi(MPI_Comm_idup(communicator, &duplicate, &request), "MPI_Comm_idup");
    wait_until([&request] { return detail::test_mpi(request); }, everyone);
    detail::check_mpi(MPI_Comm_set_errhandler(duplicate, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    return duplicate;
  }

  /// Finds the ranks of this machine, and whether all of them can map each other's memory: containers may
  /// hide processes from one another.
  void meet_neighbours(MPI_Comm given) {
    MPI_Comm node = MPI_COMM_NULL;
    if (given == MPI_COMM_NULL) {
      detail::check_mpi(MPI_Comm_split_type(messages_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node),
                        "MPI_Comm_split_type");
    } else {
      node = duplicate(given);
    }
    try {
      share_with(node);
    } catch (...) {
      MPI_Comm_free(&node);
      throw;
    }
    MPI_Comm_free(&node);
  }

  void share_with(MPI_Comm node) {
    struct Greeting {
      detail::SharedMemoryName name;
      std::uint64_t token = 0;  // tells a memory from another that a foreign process has under the number
      int rank = 0;
    };
    constexpr std::size_t token_place = sizeof(detail::NodePatterns::Directory);
    detail::SharedMemory own, directory;
    Greeting greeting;
    greeting.rank = rank_;
    try {
      own = detail::SharedMemory::create(token_place + sizeof greeting.token);
      greeting.name = own.name();
      std::random_device random;
      greeting.token = (static_cast<std::uint64_t>(random()) << 32) | random();
      std::memcpy(own.bytes().data() + token_place, &greeting.token, sizeof greeting.token);
    } catch (const std::system_error&) {
      greeting.name = {};
    }
    std::vector<int> ranks;
    std::byte all_found{1};
    for (const auto& bytes : all_gather(node, std::as_bytes(std::span(&greeting, 1)))) {
      Greeting other;
      std::memcpy(&other, bytes.data(), sizeof other);
      ranks.push_back(other.rank);
      try {
        detail::SharedMemory memory = detail::SharedMemory::attach(other.name);
        std::uint64_t token = 0;
        std::memcpy(&token, memory.bytes().data() + token_place, sizeof token);
        if (token != other.token) all_found = std::byte{0};
        if (ranks.size() == 1) directory = std::move(memory);
      } catch (const std::system_error&) {
        all_found = std::byte{0};
      }
    }
    for (const auto& found : all_gather(node, std::span(&all_found, 1))) {
      if (found.front() == std::byte{0}) return;
    }
    if (ranks.size() == 1) return;
    for (const int rank : ranks) shares_[static_cast<std::size_t>(rank)] = rank != rank_;
    patterns_ = detail::NodePatterns(std::move(directory));
  }

  // --- messages

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
      const auto idle = std::find_if(buffers_.begin(), buffers_.end(),
                                     [shared](const auto& buffer) { return buffer->shared() == shared; });
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
    auto& pieces = place.route_->pieces;
    detail::check_mpi(MPI_Startall(static_cast<int>(pieces.size()), pieces.data()), "MPI_Startall");
  }

  bool is_done(detail::MpiRoute& route) {
    int done = 0;
    statuses_.resize(route.pieces.size());
    const int code =
        MPI_Testall(static_cast<int>(route.pieces.size()), route.pieces.data(), &done, statuses_.data());
    if (code == MPI_ERR_IN_STATUS) {
      for (const MPI_Status& status : statuses_) {
        if (status.MPI_ERROR != MPI_ERR_PENDING) detail::check_mpi(status.MPI_ERROR, "MPI_Testall");
      }
    }
    detail::check_mpi(code, "MPI_Testall");
    if (done == 0) return false;
    if (!route.receives) return true;
    std::uint64_t received = 0;
    for (const MPI_Status& status : statuses_) {
      int count = 0;
      detail::check_mpi(MPI_Get_count(&status, MPI_BYTE, &count), "MPI_Get_count");
      received += static_cast<std::uint64_t>(count);
    }
    require_size(received, route.bytes);
    return true;
  }

  /// Where a lent message lies in this process.
  std::span<std::byte> borrow(int peer, const Loan& loan) {
    Borrowed& borrowed = borrowed_[{peer, loan.buffer}];
    if (borrowed.version != loan.version) {
      borrowed = {};
      borrowed = {loan.version, detail::SharedMemory::attach(loan.name)};
    }
    return borrowed.memory.bytes().first(loan.bytes);
  }

  /// Ends what a place has under way when it goes. A receive that met its message, and a send, end when MPI
  /// has moved the bytes, which a peer that lives helps it to.
  void abandon(Place& place) noexcept {
    std::vector<MPI_Request> none;
    std::vector<MPI_Request>& pieces =
        place.stage_ == Stage::under_way && place.route_ != nullptr && !place.lent_ ? place.route_->pieces
                                                                                    : none;
    for (MPI_Request& piece : pieces) MPI_Cancel(&piece);
    bool over = detail::finish_mpi(pieces);
    for (MPI_Request* request : {&place.loan_request_, &place.return_request_}) {
      if (*request == MPI_REQUEST_NULL) continue;
      // A return is on its way; all else no longer has a meaning.
      if (place.stage_ != Stage::empty) MPI_Cancel(request);
      std::vector<MPI_Request> last{*request};
      if (!detail::finish_mpi(last)) (void)place.loan_.release();  // MPI may still use it
      *request = MPI_REQUEST_NULL;
    }
    if (place.buffer_ == nullptr) return;
    // A peer may read what it was lent for as long as it likes.
    if (place.stage_ == Stage::under_way && place.lent_) over = false;
    if (over) {
      buffers_.push_back(std::move(place.buffer_));
    } else {
      detail::MpiBuffer::leave(std::move(place.buffer_));
    }
  }

  // --- waiting

  std::vector<std::vector<std::byte>> all_gather(MPI_Comm communicator, std::span<const std::byte> mine) {
    notices_.throw_failure();
    // Outlives the call where a rank is lost: MPI may still write to it.
    auto gathering = std::make_unique<Gathering>();
    try {
      return gather(communicator, *gathering, mine);
    } catch (...) {
      if (gathering->request != MPI_REQUEST_NULL) (void)gathering.release();
      throw;
    }
  }

  std::vector<std::vector<std::byte>> gather(MPI_Comm communicator, Gathering& gathering,
                                             std::span<const std::byte> mine) {
    int size = 0;
    detail::check_mpi(MPI_Comm_size(communicator, &size), "MPI_Comm_size");
    gathering.mine.assign(mine.begin(), mine.end());
    gathering.size = static_cast<int>(mine.size());
    gathering.sizes.resize(static_cast<std::size_t>(size));
    gathering.places.resize(static_cast<std::size_t>(size));
    detail::check_mpi(MPI_Iallgather(&gathering.size, 1, MPI_INT, gathering.sizes.data(), 1, MPI_INT,
                                     communicator, &gathering.request),
                      "MPI_Iallgather");
    wait_until([&] { return detail::test_mpi(gathering.request); }, everyone);
    std::exclusive_scan(gathering.sizes.begin(), gathering.sizes.end(), gathering.places.begin(), 0);
    gathering.all.resize(static_cast<std::size_t>(gathering.places.back()) +
                         static_cast<std::size_t>(gathering.sizes.back()));
    detail::check_mpi(MPI_Iallgatherv(gathering.mine.data(), gathering.size, MPI_BYTE, gathering.all.data(),
                                      gathering.sizes.data(), gathering.places.data(), MPI_BYTE, communicator,
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

  template <class Condition>
  void wait_until(const Condition& condition, int peer) {
    constexpr std::chrono::milliseconds longest =
        std::chrono::hours(24 * 365);  // the clock's range is finite
    if (condition()) return;
    const auto begin = std::chrono::steady_clock::now();
    const auto deadline = begin + std::min(options_.timeout, longest);
    while (!condition()) {
      notices_.take();
      notices_.throw_failure();
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

  CommunicatorOptions options_;
  std::size_t largest_piece_;
  int rank_ = 0, size_ = 1;
  detail::MpiNotices notices_;
  MPI_Comm messages_ = MPI_COMM_NULL;
  std::vector<bool> shares_;  // by rank
  detail::NodePatterns patterns_;
  std::vector<std::unique_ptr<detail::MpiBuffer>> buffers_;  // idle ones
  std::int64_t next_buffer_ = 0;
  std::map<std::pair<int, std::int64_t>, Borrowed> borrowed_;  // by peer and its buffer
  std::vector<MPI_Status> statuses_;
};

}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
