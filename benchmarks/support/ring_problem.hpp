// One member's part of a timed ring over MPI: the call, its computing alone, its messages alone, and the
// checks.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <ring_attention/mpi.hpp>
#include <span>
#include <string>
#include <vector>

#include "../../examples/support/ring_shard.hpp"
#include "problems.hpp"
#include "ring_model.hpp"

namespace benchmarks {

/// A member of a ring in which nothing moves: all messages arrive at once and hold `contents` over and over,
/// so that results are wrong, but finite, and the work is that of real ones.
class SilentRing {
 public:
  struct Request {};

  SilentRing(int rank, int size, std::span<const std::byte> contents)
      : rank_(rank), size_(size), contents_(contents) {}

  int rank() const { return rank_; }
  int size() const { return size_; }
  Request send(int, int, std::span<const std::byte>) { return {}; }
  Request receive(int, int, std::span<std::byte> buffer) {
    while (!buffer.empty()) {
      const std::size_t bytes = std::min(buffer.size(), contents_.size());
      std::copy_n(contents_.data(), bytes, buffer.data());
      buffer = buffer.subspan(bytes);
    }
    return {};
  }
  void wait(Request&) {}
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) {
    return {static_cast<std::size_t>(size_), {mine.begin(), mine.end()}};
  }
  void fail(const std::string&, ra::Failure) {}

 private:
  int rank_, size_;
  std::span<const std::byte> contents_;
};

/// A problem of batch size 1 in float, with as many key/value heads as query heads, in contiguous shards and
/// not causal.
class RingProblem {
 public:
  /// Collective. `problem` must outlive this object.
  RingProblem(const Configuration& problem, MPI_Comm communicator, bool shared_memory)
      : problem_(&problem),
        mpi_(communicator, {}, {.node = shared_memory ? MPI_COMM_NULL : MPI_COMM_SELF}),
        ranges_(ra::shard_ranges(problem.tokens, mpi_.size(),
                                 ra::ShardLayout::contiguous)[static_cast<std::size_t>(mpi_.rank())]),
        q_(make_shard(examples::Operand::query)),
        k_(make_shard(examples::Operand::key)),
        v_(make_shard(examples::Operand::value)),
        silent_(mpi_.rank(), mpi_.size(),
                std::as_bytes(std::span(k_.data(), static_cast<std::size_t>(k_.size())))),
        attention_(problem.config, mpi_),
        computing_(problem.config, silent_),
        steps_(RingModel(problem.config, problem.tokens, problem.heads, mpi_.size()).steps(mpi_.rank())) {
    call();
    bytes_sent_ = attention_.bytes_sent();
  }

  void call() { out_ = attention_.forward(q_, k_, v_, problem_->tokens); }
  void compute() { (void)computing_.forward(q_, k_, v_, problem_->tokens); }
  /// The messages of a call, those of two steps at a time, as the library does; their bytes are whatever
  /// their memory holds.
  void communicate() {
    const int rank = mpi_.rank(), size = mpi_.size();
    std::array<ra::MpiCommunicator::Outgoing, 2> outgoing;
    std::array<ra::MpiCommunicator::Incoming, 2> incoming;
    for (int step = 1; step <= size; ++step) {
      const auto at = static_cast<std::size_t>(step % 2);
      if (step < size) {
        const RingStep& rows = steps_[static_cast<std::size_t>(step)];
        const int distance = ra::engine::distance_of_step(step, size);
        if (rows.rows_received > 0) {
          mpi_.expect(incoming[at], (rank - distance + size) % size, 1, bytes_of(rows.rows_received));
        }
        if (rows.rows_sent > 0) {
          mpi_.prepare(outgoing[at], (rank + distance) % size, 1, bytes_of(rows.rows_sent));
          mpi_.send(outgoing[at]);
        }
      }
      mpi_.wait(incoming[1 - at]);
      mpi_.release(incoming[1 - at]);
    }
    for (auto& message : outgoing) mpi_.wait(message);
  }

  std::uint64_t bytes_sent() const { return bytes_sent_; }  ///< by one call
  /// What this member would send if every row of keys and values went to every other member.
  std::uint64_t dense_ring_bytes() const {
    return static_cast<std::uint64_t>(mpi_.size() - 1) * 2 * static_cast<std::uint64_t>(k_.size()) *
           sizeof(float);
  }

  /// The largest error of `rows` of the member's rows after a call, in units of the tolerance. Collective.
  double worst_error(std::int64_t rows) {
    call();
    const examples::DirectRow direct(problem_->config, problem_->tokens, problem_->heads, dim());
    return examples::check_rows(out_, ranges_, direct, rows).worst;
  }

 private:
  std::int64_t dim() const { return problem_->head_dims.front(); }
  std::size_t bytes_of(double rows) const {
    return static_cast<std::size_t>(rows) * 2 * static_cast<std::size_t>(dim()) * sizeof(float);
  }
  ra::Tensor<float> make_shard(examples::Operand operand) const {
    return examples::make_shard(operand, ranges_, problem_->heads, dim());
  }

  const Configuration* problem_;
  ra::MpiCommunicator mpi_;
  examples::TokenRanges ranges_;
  ra::Tensor<float> q_, k_, v_, out_;
  SilentRing silent_;
  ra::RingDistributedDilatedAttention<float, ra::MpiCommunicator> attention_;
  ra::RingDistributedDilatedAttention<float, SilentRing> computing_;
  std::vector<RingStep> steps_;
  std::uint64_t bytes_sent_ = 0;
};

}  // namespace benchmarks
