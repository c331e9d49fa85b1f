// One member's part of a timed ring over MPI: the call, its computing alone, its messages alone, and the
// checks.
#pragma once

#include <cstdint>
#include <ring_attention/mpi.hpp>
#include <span>

#include "../../examples/support/ring_shard.hpp"
#include "problems.hpp"
#include "switched_ring.hpp"

namespace benchmarks {

/// A problem of batch size 1 in float, with as many key/value heads as query heads.
class RingProblem {
  using Ring = SwitchedRing<ra::MpiCommunicator>;

 public:
  /// Collective. `problem` must outlive this object.
  RingProblem(const Configuration& problem, MPI_Comm communicator, bool shared_memory)
      : problem_(&problem),
        mpi_(communicator, {}, {.node = shared_memory ? MPI_COMM_NULL : MPI_COMM_SELF}),
        ranges_(ra::shard_ranges(problem.tokens, mpi_.size(),
                                 problem.config.shard_layout)[static_cast<std::size_t>(mpi_.rank())]),
        q_(make_shard(examples::Operand::query)),
        k_(make_shard(examples::Operand::key)),
        v_(make_shard(examples::Operand::value)),
        ring_(mpi_, std::span<const float>(k_.data(), static_cast<std::size_t>(k_.size()))),
        attention_(problem.config, ring_) {
    call(Ring::Mode::record);
    bytes_sent_ = attention_.bytes_sent();
  }

  void call() { call(Ring::Mode::on); }
  void compute() { call(Ring::Mode::off); }
  void communicate() { ring_.replay(); }

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
  void call(Ring::Mode mode) {
    ring_.set_mode(mode);
    out_ = attention_.forward(q_, k_, v_, problem_->tokens);
  }
  std::int64_t dim() const { return problem_->head_dims.front(); }
  ra::Tensor<float> make_shard(examples::Operand operand) const {
    return examples::make_shard(operand, ranges_, problem_->heads, dim());
  }

  const Configuration* problem_;
  ra::MpiCommunicator mpi_;
  examples::TokenRanges ranges_;
  ra::Tensor<float> q_, k_, v_, out_;
  Ring ring_;
  ra::RingDistributedDilatedAttention<float, Ring> attention_;
  std::uint64_t bytes_sent_ = 0;
};

}  // namespace benchmarks
