// The classes over a communicator on the threads of this process, behind the calls of a class over whole
// tensors: cuts shards, runs every member, puts the shards together.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <ring_attention/attention/block_sparse_ring_distributed_dilated_attention.hpp>
#include <ring_attention/attention/ring_distributed_dilated_attention.hpp>
#include <ring_attention/ring/thread_communicator.hpp>
#include <utility>
#include <variant>
#include <vector>

#include "support/threads.hpp"

namespace test {

namespace ra = ring_attention;

/// Rows of a shard, in order, from a tensor whose tokens are on axis `axis` (1: [b, n, h, d]; 2: lse).
template <class T>
ra::Tensor<T> cut_shard(const ra::TensorView<const T>& whole, const std::vector<ra::TokenRange>& ranges,
                        std::size_t axis = 1) {
  std::int64_t tokens = 0;
  for (const auto& [begin, end] : ranges) tokens += end - begin;
  ra::Shape shape = whole.shape();
  shape[axis] = tokens;
  ra::Tensor<T> shard(shape);
  ra::Shape at{};
  for (at[0] = 0; at[0] < shape[0]; ++at[0]) {
    std::int64_t row = 0;
    for (const auto& [begin, end] : ranges) {
      for (std::int64_t token = begin; token < end; ++token, ++row) {
        const std::size_t other = 3 - axis;
        for (at[other] = 0; at[other] < shape[other]; ++at[other]) {
          ra::Shape from = at;
          from[axis] = token;
          at[axis] = row;
          std::copy_n(whole.row(from[0], from[1], from[2]), shape[3], shard.view().row(at[0], at[1], at[2]));
        }
      }
    }
  }
  return shard;
}

template <class T>
void paste_shard(const ra::Tensor<T>& shard, const std::vector<ra::TokenRange>& ranges,
                 const ra::TensorView<T>& whole, std::size_t axis = 1) {
  const ra::Shape shape = shard.shape();
  ra::Shape at{};
  for (at[0] = 0; at[0] < shape[0]; ++at[0]) {
    std::int64_t row = 0;
    for (const auto& [begin, end] : ranges) {
      for (std::int64_t token = begin; token < end; ++token, ++row) {
        const std::size_t other = 3 - axis;
        for (at[other] = 0; at[other] < shape[other]; ++at[other]) {
          at[axis] = row;
          ra::Shape to = at;
          to[axis] = token;
          std::copy_n(shard.view().row(at[0], at[1], at[2]), shape[3], whole.row(to[0], to[1], to[2]));
        }
      }
    }
  }
}

/// `Member` is made on each thread from its communicator.
template <class Scalar, class Member, class Communicator = ra::ThreadCommunicator>
class MembersOnThreads {
 public:
  using Accumulator = ra::accumulator_t<Scalar>;
  using Input = ra::TensorView<const Scalar>;

  MembersOnThreads(int members, std::function<Member(Communicator&)> make)
      : members_(members), make_(std::move(make)) {}

  /// Payload that each member sent in the last call.
  const std::vector<std::uint64_t>& bytes_sent() const { return bytes_sent_; }

  void forward(Input q, Input k, Input v, ra::TensorView<Scalar> out, ra::TensorView<Accumulator> lse,
               const ra::ForwardOptions& options = {}) const {
    const std::int64_t n = q.shape()[1];
    run(
        [&](const Member& member, const std::vector<ra::TokenRange>& own) {
          const auto result =
              member.forward_with_lse(cut_shard(q, own), cut_shard(k, own), cut_shard(v, own), n, options);
          paste_shard(result.out, own, out);
          paste_shard(result.lse, own, lse, 2);
        },
        n);
  }

  ra::AttentionResult<Scalar> forward_with_lse(Input q, Input k, Input v,
                                               const ra::ForwardOptions& options = {}) const {
    const auto [b, n, h, d] = q.shape();
    ra::AttentionResult<Scalar> result{ra::Tensor<Scalar>(q.shape()), ra::Tensor<Accumulator>(b, h, n, 1)};
    forward(q, k, v, result.out, result.lse, options);
    return result;
  }

  ra::Gradients<Scalar> backward(Input q, Input k, Input v, const ra::AttentionResult<Scalar>& result,
                                 Input grad_out, const ra::BackwardOptions& options = {}) const {
    const std::int64_t n = q.shape()[1];
    ra::Gradients<Scalar> grads{ra::Tensor<Scalar>(q.shape()), ra::Tensor<Scalar>(k.shape()),
                                ra::Tensor<Scalar>(v.shape())};
    run(
        [&](const Member& member, const std::vector<ra::TokenRange>& own) {
          const ra::AttentionResult<Scalar> own_result{cut_shard(result.out.view(), own),
                                                       cut_shard(result.lse.view(), own, 2)};
          ra::BackwardOptions own_options{.lengths = options.lengths, .grad_lse = {}};
          ra::Tensor<Accumulator> grad_lse;
          if (const auto* whole = std::get_if<ra::TensorView<const Accumulator>>(&options.grad_lse)) {
            grad_lse = cut_shard(*whole, own, 2);
            own_options.grad_lse = std::as_const(grad_lse).view();
          }
          const auto own_grads = member.backward(cut_shard(q, own), cut_shard(k, own), cut_shard(v, own),
                                                 own_result, cut_shard(grad_out, own), n, own_options);
          paste_shard(own_grads.q, own, grads.q.view());
          paste_shard(own_grads.k, own, grads.k.view());
          paste_shard(own_grads.v, own, grads.v.view());
        },
        n);
    return grads;
  }

 private:
  template <class Body>
  void run(const Body& body, std::int64_t n) const {
    ra::ThreadRing ring(members_, {.timeout = std::chrono::minutes(2)});
    bytes_sent_.assign(static_cast<std::size_t>(members_), 0);
    run_together(members_, [&](int rank) {
      Communicator communicator(ring, rank);
      const Member member = make_(communicator);
      body(member, member.shard_ranges(n)[static_cast<std::size_t>(rank)]);
      bytes_sent_[static_cast<std::size_t>(rank)] = member.bytes_sent();
    });
  }

  int members_;
  std::function<Member(Communicator&)> make_;
  mutable std::vector<std::uint64_t> bytes_sent_;
};

template <class Scalar, class Communicator = ra::ThreadCommunicator,
          class CachePolicy = ra::use_pattern_cache>
class DistributedOnThreads
    : public MembersOnThreads<Scalar, ra::RingDistributedDilatedAttention<Scalar, Communicator, CachePolicy>,
                              Communicator> {
  using Member = ra::RingDistributedDilatedAttention<Scalar, Communicator, CachePolicy>;

 public:
  DistributedOnThreads(const ra::AttentionConfig& config, int members)
      : MembersOnThreads<Scalar, Member, Communicator>(
            members, [config](Communicator& communicator) { return Member(config, communicator); }) {}
  explicit DistributedOnThreads(const ra::AttentionConfig& config)
      : DistributedOnThreads(config, static_cast<int>(config.ring_size)) {}
};

template <class Scalar, class CachePolicy = ra::use_pattern_cache>
class BlockSparseOnThreads
    : public MembersOnThreads<Scalar, ra::BlockSparseRingDistributedDilatedAttention<
                                          Scalar, ra::ThreadCommunicator, CachePolicy>> {
  using Member = ra::BlockSparseRingDistributedDilatedAttention<Scalar, ra::ThreadCommunicator, CachePolicy>;

 public:
  BlockSparseOnThreads(const ra::AttentionConfig& config, const ra::BlockSparseConfig& sparse)
      : MembersOnThreads<Scalar, Member>(static_cast<int>(config.ring_size),
                                         [config, sparse](ra::ThreadCommunicator& communicator) {
                                           return Member(config, sparse, communicator);
                                         }) {}
};

}  // namespace test
