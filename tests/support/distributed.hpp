// The classes over a communicator behind the calls of a class over whole tensors: cuts shards, runs the
// members, puts the shards together.
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

/// Members on threads of this process, which share the whole tensors.
template <class C = ra::ThreadCommunicator>
class OnThreads {
 public:
  using Communicator = C;

  explicit OnThreads(int members) : members_(members) {}

  int members() const { return members_; }
  /// Calls body(communicator) for every member, each on a thread of its own.
  template <class Body>
  void run(const Body& body) const {
    ra::ThreadRing ring(members_, {.timeout = std::chrono::minutes(2)});
    run_together(members_, [&](int rank) {
      Communicator communicator(ring, rank);
      body(communicator);
    });
  }
  /// Puts the parts of a tensor together that the members wrote.
  template <class T>
  void unite(const ra::TensorView<T>&) const {}

 private:
  int members_;
};

/// The one member of a ring of one, on the thread that calls.
class OnOneThread {
 public:
  using Communicator = ra::AloneCommunicator;

  int members() const { return 1; }
  template <class Body>
  void run(const Body& body) const {
    Communicator communicator;
    body(communicator);
  }
  template <class T>
  void unite(const ra::TensorView<T>&) const {}
};

/// `Member` is made from its communicator, where `Place` runs it.
template <class Scalar, class Member, class Place = OnThreads<>>
class Members {
 public:
  using Communicator = typename Place::Communicator;
  using Accumulator = ra::accumulator_t<Scalar>;
  using Input = ra::TensorView<const Scalar>;

  Members(Place place, std::function<Member(Communicator&)> make)
      : place_(std::move(place)), make_(std::move(make)) {}

  /// Payload that each member sent in the last call, as far as this process ran them.
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
    place_.unite(out);
    place_.unite(lse);
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
    place_.unite(grads.q.view());
    place_.unite(grads.k.view());
    place_.unite(grads.v.view());
    return grads;
  }

 private:
  template <class Body>
  void run(const Body& body, std::int64_t n) const {
    bytes_sent_.assign(static_cast<std::size_t>(place_.members()), 0);
    place_.run([&](Communicator& communicator) {
      const auto rank = static_cast<std::size_t>(communicator.rank());
      const Member member = make_(communicator);
      body(member, member.shard_ranges(n)[rank]);
      bytes_sent_[rank] = member.bytes_sent();
    });
  }

  Place place_;
  std::function<Member(Communicator&)> make_;
  mutable std::vector<std::uint64_t> bytes_sent_;
};

template <class Scalar, class Place = OnThreads<>, class CachePolicy = ra::use_pattern_cache>
class Distributed
    : public Members<Scalar,
                     ra::RingDistributedDilatedAttention<Scalar, typename Place::Communicator, CachePolicy>,
                     Place> {
  using Communicator = typename Place::Communicator;
  using Member = ra::RingDistributedDilatedAttention<Scalar, Communicator, CachePolicy>;

 public:
  Distributed(const ra::AttentionConfig& config, Place place)
      : Members<Scalar, Member, Place>(
            place, [config](Communicator& communicator) { return Member(config, communicator); }) {}
};

template <class Scalar, class Place = OnThreads<>, class CachePolicy = ra::use_pattern_cache>
class BlockSparseDistributed
    : public Members<
          Scalar,
          ra::BlockSparseRingDistributedDilatedAttention<Scalar, typename Place::Communicator, CachePolicy>,
          Place> {
  using Communicator = typename Place::Communicator;
  using Member = ra::BlockSparseRingDistributedDilatedAttention<Scalar, Communicator, CachePolicy>;

 public:
  BlockSparseDistributed(const ra::AttentionConfig& config, const ra::BlockSparseConfig& sparse, Place place)
      : Members<Scalar, Member, Place>(place, [config, sparse](Communicator& communicator) {
          return Member(config, sparse, communicator);
        }) {}
};

template <class Scalar, class Communicator = ra::ThreadCommunicator,
          class CachePolicy = ra::use_pattern_cache>
class DistributedOnThreads : public Distributed<Scalar, OnThreads<Communicator>, CachePolicy> {
  using Base = Distributed<Scalar, OnThreads<Communicator>, CachePolicy>;

 public:
  DistributedOnThreads(const ra::AttentionConfig& config, int members)
      : Base(config, OnThreads<Communicator>(members)) {}
  explicit DistributedOnThreads(const ra::AttentionConfig& config)
      : DistributedOnThreads(config, static_cast<int>(config.ring_size)) {}
};

template <class Scalar, class CachePolicy = ra::use_pattern_cache>
class BlockSparseOnThreads : public BlockSparseDistributed<Scalar, OnThreads<>, CachePolicy> {
 public:
  BlockSparseOnThreads(const ra::AttentionConfig& config, const ra::BlockSparseConfig& sparse)
      : BlockSparseDistributed<Scalar, OnThreads<>, CachePolicy>(
            config, sparse, OnThreads<>(static_cast<int>(config.ring_size))) {}
};

}  // namespace test
