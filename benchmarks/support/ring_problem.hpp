// One member's part of a timed ring over MPI: the call, its computing alone, its messages alone, and the
// checks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <ring_attention/mpi.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../examples/support/ring_shard.hpp"
#include "attention_patterns.hpp"
#include "exchange_off.hpp"
#include "message_replay.hpp"

namespace benchmarks {

/// What the plan says of a call, by member.
struct RingPlan {
  std::vector<double> pairs;            ///< query-key pairs, summed over heads
  std::vector<std::int64_t> rows;       ///< of keys, each with one of values, that members send
  std::vector<std::int64_t> rule_rows;  ///< the most that the library promises: kept rows times the other
                                        ///< members whose shards hold queries of their segment, kept or not
};

inline RingPlan plan_ring(const Configuration& problem, int size) {
  RingPlan plan;
  const auto report = [&](const ra::AttentionConfig& config) {
    const ra::CallShape shape{1, problem.tokens, problem.heads, problem.heads, 1};
    return ra::engine::report_plan(ra::detail::plan_call(config, shape, {}, &ra::make_indices).plan, size,
                                   config.shard_layout);
  };
  for (const ra::MemberReport& member : report(problem.config).members) {
    plan.pairs.push_back(member.pairs);
    plan.rows.push_back(member.rows_sent);
  }
  ra::AttentionConfig every_query = problem.config;
  every_query.query_rule = ra::QueryRule::all;
  for (const ra::MemberReport& member : report(every_query).members)
    plan.rule_rows.push_back(member.rows_sent);
  return plan;
}

/// A problem of batch size 1 in float, with as many key/value heads as query heads.
class RingProblem {
  using Attention = ra::RingDistributedDilatedAttention<float, ra::MpiCommunicator>;
  using Alone = ExchangeOff<ra::MpiCommunicator>;

 public:
  /// Collective. `problem` must outlive this object.
  RingProblem(const Configuration& problem, MPI_Comm communicator, bool shared_memory)
      : problem_(&problem),
        ring_(communicator, {}, {.node = shared_memory ? MPI_COMM_NULL : MPI_COMM_SELF}),
        attention_(problem.config, ring_),
        ranges_(attention_.shard_ranges(problem.tokens)[static_cast<std::size_t>(ring_.rank())]),
        q_(make_shard(examples::Operand::query)),
        k_(make_shard(examples::Operand::key)),
        v_(make_shard(examples::Operand::value)),
        alone_(ring_, std::as_bytes(std::span(k_.data(), static_cast<std::size_t>(k_.size())))),
        compute_(problem.config, alone_) {
    RecordingRing<ra::MpiCommunicator> recorder(ring_);
    const ra::RingDistributedDilatedAttention<float, RecordingRing<ra::MpiCommunicator>> recorded(
        problem.config, recorder);
    out_ = recorded.forward(q_, k_, v_, problem.tokens);
    replay_.emplace(recorder.events());
    bytes_sent_ = recorded.bytes_sent();
  }

  void call() { out_ = attention_.forward(q_, k_, v_, problem_->tokens); }
  void compute() { (void)compute_.forward(q_, k_, v_, problem_->tokens); }
  void communicate() { replay_->run(ring_); }

  std::uint64_t bytes_sent() const { return bytes_sent_; }  ///< by one call
  std::size_t messages_sent() const { return replay_->messages_sent(); }
  /// What this member would send if every row of keys and values went to every other member.
  std::uint64_t dense_ring_bytes() const {
    return static_cast<std::uint64_t>(ring_.size() - 1) * 2 * static_cast<std::uint64_t>(k_.size()) *
           sizeof(float);
  }

  /// The largest error of some of the member's rows in the last call, in units of the tolerance.
  double worst_error() const {
    const auto dim = problem_->head_dims.front();
    const examples::DirectRow direct(problem_->config, problem_->tokens, problem_->heads, dim);
    return examples::check_rows(out_, ranges_, direct, 3).worst;
  }

  /// The largest difference from one process that has the whole tensors, in units of the tolerance. For small
  /// problems: every member computes all of it.
  double worst_difference_from_one_process() {
    call();
    const examples::TokenRanges everything{{0, problem_->tokens}};
    const auto whole = [&](examples::Operand operand) {
      return examples::make_shard(operand, everything, problem_->heads, problem_->head_dims.front());
    };
    const ra::Tensor<float> expected =
        ra::RingDilatedAttentionV2<float>(problem_->config)
            .forward(whole(examples::Operand::query), whole(examples::Operand::key),
                     whole(examples::Operand::value));
    double largest = 0.0, worst = 0.0;
    const auto [batch, own, heads, dim] = out_.shape();
    for (std::int64_t row = 0; row < own; ++row) {
      const std::int64_t token = examples::token_of_row(ranges_, row);
      for (std::int64_t head = 0; head < heads; ++head) {
        for (std::int64_t c = 0; c < dim; ++c) {
          const double reference = static_cast<double>(expected.view()(0, token, head, c));
          const double difference = std::abs(static_cast<double>(out_.view()(0, row, head, c)) - reference);
          largest = std::max(largest, std::abs(reference));
          worst =
              std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(worst, difference);
        }
      }
    }
    // Each of the two may be wrong by the tolerance.
    return worst > 0.0 ? worst / (2 * 2e-5 * std::min(1.0, largest)) : 0.0;
  }

 private:
  ra::Tensor<float> make_shard(examples::Operand operand) const {
    return examples::make_shard(operand, ranges_, problem_->heads, problem_->head_dims.front());
  }

  const Configuration* problem_;
  ra::MpiCommunicator ring_;
  Attention attention_;
  examples::TokenRanges ranges_;
  ra::Tensor<float> q_, k_, v_, out_;
  Alone alone_;
  ra::RingDistributedDilatedAttention<float, Alone> compute_;
  std::optional<MessageReplay> replay_;
  std::uint64_t bytes_sent_ = 0;
};

}  // namespace benchmarks
