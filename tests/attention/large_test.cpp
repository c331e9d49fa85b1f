// unit: values
// Sequences near 5,000 tokens, where many tiles, segments and chunks take part, checked on sampled rows.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/random.hpp"
#include "support/random_case.hpp"

namespace {

namespace ra = ring_attention;

constexpr std::uint64_t cases_per_type = test::rule_combinations / 4;

test::RandomCase make_large_case(std::uint64_t seed) {
  test::Random random(0x6c61726765 + seed);
  test::RandomCase c;
  c.seed = seed;
  test::set_rules(c.config, seed);
  const std::int64_t n = random.chance(0.5)
                             ? random.pick({4903, 4937, 4969, 4999, 5003, 5021, 5051, 5077, 5099})
                             : random.integer(4900, 5100);
  const std::int64_t h = random.pick({2, 3, 4, 6});
  const std::int64_t kv_heads = h % 2 == 0 && random.chance(0.6) ? h / 2 : h;
  const std::int64_t d = random.pick({8, 24, 48, 64, 80});
  const std::int64_t branches = random.integer(2, 3);
  for (std::int64_t i = 0; i < branches; ++i) {
    const bool wide = i == branches - 1;
    c.config.segment_lengths.push_back(wide ? random.pick({n / 2, n - 1, n, n + 1, std::int64_t{8192}})
                                            : random.pick({256, 500, 1000, 1024, 1031, 2048}));
    c.config.dilation_rates.push_back(wide ? random.integer(5, 40) : random.integer(1, 7));
  }
  c.config.ring_size = random.integer(1, 9);
  c.config.shard_layout = random.pick({ra::ShardLayout::contiguous, ra::ShardLayout::zigzag});
  c.q = {random.pick({1, 1, 2}), n, h, d};
  while (test::detail::work(c) > 3e8 && c.q[3] > 8) c.q[3] -= 8;
  c.k = {c.q[0], n, kv_heads, c.q[3]};
  if (random.chance(0.3)) {
    for (std::int64_t item = 0; item < c.q[0]; ++item) c.lengths.push_back(random.integer(4000, n));
  }
  c.threads = static_cast<int>(random.integer(1, 2));
  c.q_layout = test::random_layout(random, true);
  c.k_layout = test::random_layout(random, true);
  c.v_layout = test::random_layout(random, true);
  c.out_layout = test::random_layout(random, false);
  c.lse_layout = test::random_layout(random, false);
  return c;
}

/// About 40 rows: both sides of the sequence's ends, of segment borders, of shard borders and of an item's
/// length, and random ones.
std::vector<std::int64_t> sample_rows(const test::RandomCase& c) {
  constexpr std::size_t count = 40;
  test::Random random(c.seed);
  const std::int64_t n = c.q[1];
  std::vector<std::int64_t> borders{0, n};
  borders.insert(borders.end(), c.lengths.begin(), c.lengths.end());
  for (const std::int64_t w : c.config.segment_lengths) {
    borders.push_back(w);
    borders.push_back((n - 1) / w * w);
    borders.push_back(w * random.integer(0, n / w));
  }
  const std::int64_t parts = c.config.ring_size * (c.config.shard_layout == ra::ShardLayout::zigzag ? 2 : 1);
  const std::int64_t run = (n + parts - 1) / parts;
  for (int i = 0; i < 3; ++i) borders.push_back(run * random.integer(1, parts));
  std::set<std::int64_t> rows;
  for (const std::int64_t border : borders) {
    for (const std::int64_t row : {border - 1, border}) {
      if (row >= 0 && row < n) rows.insert(row);
    }
  }
  while (rows.size() < count) rows.insert(random.integer(0, n - 1));
  return {rows.begin(), rows.end()};
}

template <class Scalar>
constexpr std::uint64_t first_seed() {
  if constexpr (std::is_same_v<Scalar, float>) return 0;
  if constexpr (std::is_same_v<Scalar, double>) return cases_per_type;
  if constexpr (std::is_same_v<Scalar, Eigen::half>) return 2 * cases_per_type;
  return 3 * cases_per_type;
}

}  // namespace

TEMPLATE_TEST_CASE("V2 forward: sampled rows of long sequences agree with the oracle", "[attention][large]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  for (std::uint64_t i = 0; i < cases_per_type; ++i) {
    const test::RandomCase c = make_large_case(first_seed<TestType>() + i);
    INFO(c.describe());
    const ra::RingDilatedAttentionV2<TestType> attention(c.config);
    const std::string failure = test::check_forward<TestType>(
        c,
        [&](const auto& q, const auto& k, const auto& v, const auto& out, const auto& lse,
            const auto& options) { attention.forward(q, k, v, out, lse, options); },
        sample_rows(c));
    INFO(failure);
    CHECK(failure.empty());
  }
}
