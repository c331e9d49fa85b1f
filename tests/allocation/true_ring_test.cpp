// Memory of one member of TrueRingDilatedAttention, and what an allocation that fails on a member does.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <new>
#include <ring_attention/attention/true_ring_dilated_attention.hpp>

#include "allocation/counting.hpp"
#include "support/catch.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

struct Peaks {
  double forward, backward;
};

/// The most that a member (other than the caller's, which also holds the whole gradients) holds in a call.
template <class Scalar>
Peaks member_peaks(ra::AttentionConfig config, std::int64_t members, const test::CallInputs<Scalar>& in) {
  config.ring_size = members;
  const ra::TrueRingDilatedAttention<Scalar> attention(config);
  test::reset_peak();
  const auto result = attention.forward_with_lse(in.q, in.k, in.v);
  const auto forward = static_cast<double>(test::peak_of_other_threads());
  test::reset_peak();
  (void)attention.backward(in.q, in.k, in.v, result, in.q);
  return {forward, static_cast<double>(test::peak_of_other_threads())};
}

template <class Scalar>
void check_halves(const ra::AttentionConfig& config, const test::CallInputs<Scalar>& in) {
  const Peaks four = member_peaks(config, 4, in);
  const Peaks eight = member_peaks(config, 8, in);
  INFO("forward " << four.forward << " -> " << eight.forward << ", backward " << four.backward << " -> "
                  << eight.backward);
  CHECK(four.forward > 100'000);
  CHECK(eight.forward < four.forward * 0.5 * 1.15);
  CHECK(eight.forward > four.forward * 0.5 * 0.85);
  CHECK(eight.backward < four.backward * 0.5 * 1.15);
  CHECK(eight.backward > four.backward * 0.5 * 0.85);
}

}  // namespace

TEST_CASE("a member's memory halves when the members double: sparse branches", "[allocation][ring]") {
  // Mostly the states of a member's own rows: 16 MiB and 8 MiB, beside at most 2 MiB that do not depend on n.
  ra::AttentionConfig config;
  config.segment_lengths = {128, 16384};
  config.dilation_rates = {16, 1024};
  const auto in = test::random_inputs<float>({1, 16384, 16, 64}, 4);
  check_halves(config, in);
  config.shard_layout = ra::ShardLayout::zigzag;
  config.causal = true;
  check_halves(config, in);
}

TEST_CASE("a member's memory halves when the members double: dense work", "[allocation][ring]") {
  // Mostly the keys and values of two other members.
  ra::AttentionConfig config;
  config.segment_lengths = {16384};
  config.dilation_rates = {2};
  config.query_rule = ra::QueryRule::dilated;
  check_halves(config, test::random_inputs<Eigen::half>({1, 16384, 1, 16}, 1));
}

TEST_CASE("an allocation that fails on one member ends the call on all", "[allocation][ring]") {
  ra::AttentionConfig config;
  config.segment_lengths = {4096};
  config.dilation_rates = {4};
  config.ring_size = 5;
  const ra::TrueRingDilatedAttention<float> attention(config);
  const auto in = test::random_inputs<float>({1, 4096, 2, 16}, 2);
  const auto expected = attention.forward_with_lse(in.q, in.k, in.v);
  for (const std::size_t limit : {std::size_t{1} << 12, std::size_t{1} << 14, std::size_t{1} << 16}) {
    INFO("limit " << limit);
    const auto start = std::chrono::steady_clock::now();
    bool out_of_memory = false;
    try {
      const test::RefuseAllocations refuse(limit, /*on_other_threads_only=*/true);
      (void)attention.forward(in.q, in.k, in.v);
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
    CHECK(out_of_memory);
    out_of_memory = false;
    try {
      const test::RefuseAllocations refuse(limit, /*on_other_threads_only=*/true);
      (void)attention.backward(in.q, in.k, in.v, expected, in.q);
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
    CHECK(out_of_memory);
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(60));
  }
  CHECK(test::bitwise_equal(attention.forward(in.q, in.k, in.v), expected.out));
}
