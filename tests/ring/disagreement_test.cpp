// Members whose configurations, shapes or calls differ or are invalid: all throw alike, before data moves.
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <ring_attention/attention/block_sparse_ring_distributed_dilated_attention.hpp>
#include <ring_attention/attention/ring_distributed_dilated_attention.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/faulty_communicator.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;
using namespace std::chrono_literals;
template <class Scalar>
using Distributed = ra::RingDistributedDilatedAttention<Scalar, ra::ThreadCommunicator>;

constexpr int member_count = 3;

ra::AttentionConfig base() {
  ra::AttentionConfig config;
  config.segment_lengths = {16, 32};
  config.dilation_rates = {1, 2};
  return config;
}

/// The one text with which all members refuse; each must refuse, and alike.
template <class Body>
std::string refusal(const Body& body) {
  ra::ThreadRing ring(member_count, {.timeout = 60s});
  const auto start = std::chrono::steady_clock::now();
  const auto ends = test::run_members(member_count, [&](int rank) {
    ra::ThreadCommunicator communicator(ring, rank);
    body(rank, communicator);
  });
  CHECK(std::chrono::steady_clock::now() - start < 30s);
  for (const auto& end : ends) CHECK(test::describe(end) == test::describe(ends[0]));
  CHECK(ring.failed_rank() == -1);
  return test::describe(ends[0]);
}

std::string config_refusal(int odd_rank, const std::function<void(ra::AttentionConfig&)>& change) {
  return refusal([&](int rank, ra::ThreadCommunicator& communicator) {
    ra::AttentionConfig config = base();
    if (rank == odd_rank) change(config);
    const Distributed<float> member(config, communicator);
  });
}

/// Arguments of a member's call.
struct Call {
  ra::Shape q{1, 8, 4, 8};
  ra::Shape k{1, 8, 2, 8};
  std::int64_t total = 24;
  std::vector<std::int64_t> lengths;
  bool backward = false;
};

template <class Scalar = float>
void make_call(const Distributed<Scalar>& member, const Call& call) {
  const ra::Tensor<Scalar> q(call.q), k(call.k);
  if (!call.backward) {
    (void)member.forward(q, k, k, call.total, ra::ForwardOptions{.lengths = call.lengths});
    return;
  }
  const ra::AttentionResult<Scalar> result{
      ra::Tensor<Scalar>(call.q), ra::Tensor<ra::accumulator_t<Scalar>>(call.q[0], call.q[2], call.q[1], 1)};
  (void)member.backward(q, k, k, result, q, call.total,
                        ra::BackwardOptions{.lengths = call.lengths, .grad_lse = {}});
}

std::string call_refusal(int odd_rank, const std::function<void(Call&)>& change) {
  return refusal([&](int rank, ra::ThreadCommunicator& communicator) {
    const Distributed<float> member(base(), communicator);
    make_call(member, Call{});  // equal calls are served
    Call call;
    if (rank == odd_rank) change(call);
    std::exception_ptr refused = test::run_members(1, [&](int) { make_call(member, call); }).front();
    make_call(member, Call{});  // and again after a refusal: nothing was left under way
    if (refused) std::rethrow_exception(refused);
  });
}

}  // namespace

TEST_CASE("members with different configurations refuse, naming rank and field", "[ring][disagreement]") {
  using Config = ra::AttentionConfig;
  CHECK(config_refusal(2, [](Config& c) {
          c.segment_lengths = {16, 33};
        }) == "invalid_argument: segment_lengths on rank 2 = {16, 33}: must equal rank 0's {16, 32}");
  CHECK(config_refusal(1, [](Config& c) { c.dilation_rates[0] = 3; }) ==
        "invalid_argument: dilation_rates on rank 1 = {3, 2}: must equal rank 0's {1, 2}");
  CHECK(config_refusal(0, [](Config& c) { c.causal = true; }) ==
        "invalid_argument: causal on rank 1 = 0: must equal rank 0's 1");
  CHECK(config_refusal(2, [](Config& c) { c.scale = 0.125; }) ==
        "invalid_argument: scale on rank 2 = 0.125: must equal rank 0's default");
  CHECK(config_refusal(2, [](Config& c) { c.ring_size = member_count; }) ==
        "invalid_argument: ring_size on rank 2 = 3: must equal rank 0's 1");
  const auto names = [](const char* field, const std::function<void(Config&)>& change) {
    const std::string text = config_refusal(2, change);
    INFO(text);
    CHECK(text.starts_with(std::string("invalid_argument: ") + field + " on rank 2 = "));
  };
  names("head_partition", [](Config& c) { c.head_partition = ra::HeadPartition::shared; });
  names("offset_rule", [](Config& c) { c.offset_rule = ra::OffsetRule::by_head; });
  names("query_rule", [](Config& c) { c.query_rule = ra::QueryRule::dilated; });
  names("padding_rule", [](Config& c) { c.padding_rule = ra::PaddingRule::zero_attended; });
  names("mix_gradient", [](Config& c) { c.mix_gradient = ra::MixGradient::detached; });
  names("shard_layout", [](Config& c) { c.shard_layout = ra::ShardLayout::zigzag; });
}

TEST_CASE("a configuration that is invalid on one member is refused by all", "[ring][disagreement]") {
  CHECK(config_refusal(1, [](ra::AttentionConfig& c) { c.segment_lengths[1] = 0; }) ==
        "invalid_argument: rank 1: segment_lengths[1] = 0: must be positive");
  CHECK(config_refusal(2, [](ra::AttentionConfig& c) { c.dilation_rates = {}; }) ==
        "invalid_argument: rank 2: dilation_rates.size() = 0: must equal segment_lengths.size() = 2");
  CHECK(config_refusal(0, [](ra::AttentionConfig& c) { c.ring_size = 4; }) ==
        "invalid_argument: rank 0: ring_size = 4: must be 1 or the number of ranks, 3");
}

TEST_CASE("members with different calls refuse, naming rank and field", "[ring][disagreement]") {
  CHECK(call_refusal(0, [](Call&) {}) == "returned");
  CHECK(call_refusal(2, [](Call& c) { c.total = 23, c.q[1] = c.k[1] = 7; }) ==
        "invalid_argument: total_sequence_length on rank 2 = 23: must equal rank 0's 24");
  CHECK(call_refusal(1, [](Call& c) { c.q[0] = c.k[0] = 2; }) ==
        "invalid_argument: batch size on rank 1 = 2: must equal rank 0's 1");
  CHECK(call_refusal(1, [](Call& c) { c.q[2] = 6; }) ==
        "invalid_argument: query heads on rank 1 = 6: must equal rank 0's 4");
  CHECK(call_refusal(1, [](Call& c) { c.k[2] = 4; }) ==
        "invalid_argument: key/value heads on rank 1 = 4: must equal rank 0's 2");
  CHECK(call_refusal(0, [](Call& c) { c.q[3] = c.k[3] = 9; }) ==
        "invalid_argument: head dimension on rank 1 = 8: must equal rank 0's 9");
  CHECK(call_refusal(2, [](Call& c) { c.lengths = {20}; }) ==
        "invalid_argument: lengths on rank 2 = {20}: must equal rank 0's {}");
  CHECK(call_refusal(2, [](Call& c) { c.backward = true; }) ==
        "invalid_argument: call on rank 2 = backward: must equal rank 0's forward");
}

TEST_CASE("a call that is invalid on one member is refused by all", "[ring][disagreement]") {
  CHECK(
      call_refusal(1, [](Call& c) { c.q[1] = c.k[1] = 24; }) ==
      "invalid_argument: rank 1: q shape = [1, 24, 4, 8]: rank 1 of 3 holds the shard of 8 out of 24 tokens; "
      "whole tensors are for the classes without a communicator");
  const auto names = [](const char* text, const std::function<void(Call&)>& change) {
    const std::string refused = call_refusal(2, change);
    INFO(refused);
    CHECK(refused.starts_with(std::string("invalid_argument: rank 2: ") + text));
  };
  names("total_sequence_length = -1: must not be negative", [](Call& c) { c.total = -1; });
  names("k shape = [1, 7, 2, 8]: must agree with q", [](Call& c) { c.k[1] = 7; });
  names("q heads = 4: must be a multiple", [](Call& c) { c.k[2] = 3; });
  names("lengths[0] = 25: must lie in [0, n]", [](Call& c) { c.lengths = {25}; });
  names("lengths.size() = 2: must be empty or equal", [](Call& c) { c.lengths = {1, 2}; });
}

TEST_CASE("members that call objects of different configurations refuse", "[ring][disagreement]") {
  using BlockSparse = ra::BlockSparseRingDistributedDilatedAttention<float, ra::ThreadCommunicator>;
  const ra::Tensor<float> q(1, 8, 4, 8);
  const auto forward = [&q](const auto& member) { (void)member.forward(q, q, q, 24); };
  // Rank 1 takes two layers in another order than the others do.
  const auto two_layers = [&](const auto& make_first, const auto& make_second, bool in_order = false) {
    return refusal([&](int rank, ra::ThreadCommunicator& communicator) {
      const auto first = make_first(communicator);
      const auto second = make_second(communicator);
      forward(first);
      std::exception_ptr refused = test::run_members(1, [&](int) {
                                     if (rank == 1 && !in_order) {
                                       forward(second);
                                     } else {
                                       forward(first);
                                     }
                                   }).front();
      forward(second);  // the ring is as good as before
      if (refused) std::rethrow_exception(refused);
    });
  };
  const auto dilated = [](const std::function<void(ra::AttentionConfig&)>& change) {
    return [change](ra::ThreadCommunicator& communicator) {
      ra::AttentionConfig config = base();
      change(config);
      return Distributed<float>(config, communicator);
    };
  };
  const auto sparse = [](std::int64_t window) {
    return [window](ra::ThreadCommunicator& communicator) {
      return BlockSparse(base(), ra::BlockSparseConfig{.block_size = 4, .window = window}, communicator);
    };
  };
  const auto plain = dilated([](ra::AttentionConfig&) {});
  const auto names = [](const std::string& text, const std::string& called, const std::string& by_rank_0) {
    INFO(text);
    CHECK(text.starts_with("invalid_argument: configuration of the called object on rank 1 = " + called +
                           " with checksum "));
    CHECK(text.find(": must equal rank 0's " + by_rank_0 + " with checksum ") != std::string::npos);
  };
  names(two_layers(plain, dilated([](ra::AttentionConfig& c) { c.scale = 0.5; })), "dilated", "dilated");
  names(two_layers(plain, dilated([](ra::AttentionConfig& c) { c.causal = true; })), "dilated", "dilated");
  names(two_layers(plain, sparse(8)), "block-sparse", "dilated");
  names(two_layers(sparse(8), plain), "dilated", "block-sparse");
  names(two_layers(sparse(8), sparse(4)), "block-sparse", "block-sparse");
  CHECK(two_layers(plain, plain) == "returned");  // they are the same
  CHECK(two_layers(plain, sparse(8), /*in_order=*/true) == "returned");

  const std::string made = refusal([&](int rank, ra::ThreadCommunicator& communicator) {
    if (rank == 2) {
      sparse(8)(communicator);
    } else {
      plain(communicator);
    }
  });
  CHECK(made == "invalid_argument: attention on rank 2 = block-sparse: must equal rank 0's dilated");
}

TEST_CASE("members with different scalars refuse", "[ring][disagreement]") {
  const std::string text = refusal([](int rank, ra::ThreadCommunicator& communicator) {
    if (rank == 1) {
      make_call<double>(Distributed<double>(base(), communicator), Call{});
    } else {
      make_call<float>(Distributed<float>(base(), communicator), Call{});
    }
  });
  CHECK(text.starts_with("invalid_argument: Scalar on rank 1 = "));
  const std::string halves = refusal([](int rank, ra::ThreadCommunicator& communicator) {
    if (rank == 2) {
      make_call<Eigen::half>(Distributed<Eigen::half>(base(), communicator), Call{});
    } else {
      make_call<Eigen::bfloat16>(Distributed<Eigen::bfloat16>(base(), communicator), Call{});
    }
  });
  CHECK(halves.starts_with("invalid_argument: Scalar on rank 2 = "));
}

TEST_CASE("backward refuses results and gradients of another shape on every member", "[ring][disagreement]") {
  const auto run = [](const std::function<void(ra::AttentionResult<float>&, ra::Tensor<float>&)>& change) {
    return refusal([&](int rank, ra::ThreadCommunicator& communicator) {
      const Distributed<float> member(base(), communicator);
      const ra::Tensor<float> q(1, 8, 4, 8);
      ra::AttentionResult<float> result = member.forward_with_lse(q, q, q, 24);
      ra::Tensor<float> grad_out(1, 8, 4, 8);
      if (rank == 1) change(result, grad_out);
      (void)member.backward(q, q, q, result, grad_out, 24);
    });
  };
  CHECK(run([](auto& result, auto&) { result.out = ra::Tensor<float>(1, 24, 4, 8); }) ==
        "invalid_argument: rank 1: result.out shape = [1, 24, 4, 8]: must be [1, 8, 4, 8]");
  CHECK(run([](auto& result, auto&) { result.lse = ra::Tensor<float>(1, 4, 24, 1); }) ==
        "invalid_argument: rank 1: result.lse shape = [1, 4, 24, 1]: must be [1, 4, 8, 1]");
  CHECK(run([](auto&, auto& grad_out) { grad_out = ra::Tensor<float>(1, 8, 4, 7); }) ==
        "invalid_argument: rank 1: grad_out shape = [1, 8, 4, 7]: must be [1, 8, 4, 8]");
}

TEST_CASE("empty calls are served by every member", "[ring][disagreement]") {
  for (const auto& extents : {std::pair<std::int64_t, std::int64_t>{0, 24}, {2, 0}, {1, 1}}) {
    const std::int64_t batch = extents.first, total = extents.second;
    const auto text = refusal([batch, total](int rank, ra::ThreadCommunicator& communicator) {
      const Distributed<float> member(base(), communicator);
      const std::int64_t own =
          rank == 0 || batch == 0 ? (total + 2) / 3 : std::max<std::int64_t>(0, total / 3);
      const ra::Tensor<float> q(batch, own, 4, 8);
      const auto result = member.forward_with_lse(q, q, q, total);
      const auto grads = member.backward(q, q, q, result, q, total);
      if (result.out.shape() != q.shape() || grads.k.shape() != q.shape())
        throw std::runtime_error("wrong shape");
    });
    CHECK(text == "returned");
  }
}
