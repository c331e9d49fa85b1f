// Shards of the longest sequences and the largest rings: no number of theirs may overflow.
#include <cstdint>
#include <limits>
#include <ring_attention/attention/true_ring_dilated_attention.hpp>
#include <vector>

#include "support/catch.hpp"
#include "support/error_text.hpp"

namespace {

namespace ra = ring_attention;

constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();

using Ranges = std::vector<ra::TokenRange>;

/// The runs of a member that hold tokens.
Ranges runs_of(std::int64_t n, std::int64_t ring_size, ra::ShardLayout layout, std::int64_t member) {
  Ranges ranges;
  for (const auto& run : ra::detail::member_tokens(n, ring_size, layout, member).runs) {
    if (run.size() > 0) ranges.emplace_back(run.begin, run.end);
  }
  return ranges;
}

}  // namespace

TEST_CASE("shards of the longest sequence cover it", "[ring][shards]") {
  constexpr std::int64_t half = most / 2 + 1;
  CHECK(ra::shard_ranges(most, 1, ra::ShardLayout::contiguous) == std::vector<Ranges>{{{0, most}}});
  CHECK(ra::shard_ranges(most, 2, ra::ShardLayout::contiguous) ==
        std::vector<Ranges>{{{0, half}}, {{half, most}}});
  CHECK(ra::shard_ranges(most, 1, ra::ShardLayout::zigzag) == std::vector<Ranges>{{{0, half}, {half, most}}});
}

TEST_CASE("rings larger than any sequence have one token per member, then none", "[ring][shards]") {
  for (const std::int64_t ring_size : {most / 2 + 2, most - 1, most}) {
    INFO("ring size " << ring_size);
    for (const auto layout : {ra::ShardLayout::contiguous, ra::ShardLayout::zigzag}) {
      CHECK(runs_of(3, ring_size, layout, 0) == Ranges{{0, 1}});
      CHECK(runs_of(3, ring_size, layout, 2) == Ranges{{2, 3}});
      CHECK(runs_of(3, ring_size, layout, 3).empty());
      CHECK(runs_of(3, ring_size, layout, ring_size - 1).empty());
    }
  }
  // 2P chunks of one token: the last member's two chunks lie side by side in the middle.
  constexpr std::int64_t large = most / 2 + 2;
  CHECK(runs_of(most, large, ra::ShardLayout::zigzag, large - 1) ==
        Ranges{{large - 1, large}, {large, large + 1}});
}

TEST_CASE("TrueRing refuses more members than threads can be counted", "[ring][error]") {
  ra::AttentionConfig config = ra::ring_preset();
  config.segment_lengths = {4};
  config.dilation_rates = {1};
  config.ring_size = (std::int64_t{1} << 32) + 1;  // 1 as an int
  using Attention = ra::TrueRingDilatedAttention<float>;
  CHECK(test::error_text([&] { Attention{config}; }) ==
        "ring_size = 4294967297: must be at most 2147483647: every member is a thread");
  config.ring_size = std::numeric_limits<std::int32_t>::max();
  CHECK_NOTHROW(Attention(config));
}
