// Random configurations of one attention call. A seed decides a case completely.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <ring_attention/config.hpp>
#include <ring_attention/tensor.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "support/random.hpp"
#include "support/strided.hpp"

namespace test {

namespace ra = ring_attention;

struct RandomCase {
  std::uint64_t seed = 0;
  ra::AttentionConfig config;
  ra::Shape q{};
  ra::Shape k{};
  std::vector<std::int64_t> lengths;
  int threads = 1;
  Layout q_layout, k_layout, v_layout, out_layout, lse_layout;

  std::string describe() const;
};

/// HeadPartition x OffsetRule x QueryRule x PaddingRule x causal.
inline constexpr std::uint64_t rule_combinations = 2 * 3 * 2 * 2 * 2;

/// Sets the rules to combination `index` modulo their number.
inline void set_rules(ra::AttentionConfig& config, std::uint64_t index) {
  const auto next = [&index](std::uint64_t choices) {
    const std::uint64_t choice = index % choices;
    index /= choices;
    return choice;
  };
  config.head_partition = std::array{ra::HeadPartition::grouped, ra::HeadPartition::shared}[next(2)];
  config.offset_rule =
      std::array{ra::OffsetRule::by_branch, ra::OffsetRule::by_head, ra::OffsetRule::by_head_block}[next(3)];
  config.query_rule = std::array{ra::QueryRule::all, ra::QueryRule::dilated}[next(2)];
  config.padding_rule = std::array{ra::PaddingRule::masked, ra::PaddingRule::zero_attended}[next(2)];
  config.causal = next(2) == 1;
}

/// The combination that set_rules would have been given.
inline std::uint64_t rules_of(const ra::AttentionConfig& config) {
  const auto number = [](auto rule) { return static_cast<std::uint64_t>(rule); };
  return number(config.head_partition) +
         2 * (number(config.offset_rule) +
              3 * (number(config.query_rule) +
                   2 * (number(config.padding_rule) + 2 * static_cast<std::uint64_t>(config.causal))));
}

namespace detail {

inline std::int64_t random_tokens(Random& random) {
  static const std::vector<std::int64_t> primes{2,   3,   5,   7,   11,  13,  17,  19,  23,  29,  31,
                                                37,  41,  53,  61,  67,  79,  97,  101, 109, 127, 131,
                                                151, 163, 181, 191, 211, 227, 239, 251, 269, 283, 293};
  const double choice = random.uniform();
  if (choice < 0.45) return random.pick(primes);
  if (choice < 0.6) return random.integer(1, 16);
  return random.integer(1, 300);
}

inline std::int64_t random_segment_length(Random& random, std::int64_t n) {
  const double choice = random.uniform();
  if (choice < 0.15) return random.integer(n, 2 * n + 9);
  if (choice < 0.3) return random.integer(1, 16);
  if (choice < 0.45) return random.pick({16, 32, 64, 128, 1024, 1'048'576});
  return random.integer(1, n);
}

inline std::int64_t random_dilation_rate(Random& random, std::int64_t w) {
  const double choice = random.uniform();
  if (choice < 0.35) return random.integer(1, 2);
  if (choice < 0.85) return random.integer(1, 8);
  if (choice < 0.93) return random.integer(1, w);
  return random.integer(w + 1, 2 * w + 3);
}

/// Multiply-adds that the oracle and a dense implementation spend, roughly.
inline double work(const RandomCase& c) {
  double pairs = 0;
  for (std::size_t i = 0; i < c.config.segment_lengths.size(); ++i) {
    const std::int64_t w = std::min(c.config.segment_lengths[i], c.q[1]);
    pairs += static_cast<double>(c.q[1]) *
             (static_cast<double>(w) / static_cast<double>(c.config.dilation_rates[i]) + 1);
  }
  if (c.config.head_partition == ra::HeadPartition::grouped) {
    pairs /= static_cast<double>(c.config.segment_lengths.size());
  }
  return pairs * static_cast<double>(c.q[0] * c.q[2] * c.q[3]);
}

}  // namespace detail

/// A query that sees more keys than this meets them in several runs (`run_keys` of the engine).
inline constexpr std::int64_t longest_run_of_keys = 512;

/// Whether some queries of a case meet more keys than one run holds. 17 has no divisor in common with the
/// rules' number, so that in time every combination has such cases.
inline bool is_long(std::uint64_t seed) { return seed % 17 == 3; }

/// Consecutive seeds go through all combinations of the rules.
inline RandomCase make_random_case(std::uint64_t seed, double work_limit = 1.2e7) {
  Random random(seed);
  RandomCase c;
  c.seed = seed;
  set_rules(c.config, seed);
  const bool long_case = is_long(seed);
  const std::int64_t n =
      long_case ? random.integer(longest_run_of_keys + 1, 1500) : detail::random_tokens(random);
  const std::int64_t d =
      long_case ? random.pick({1, 3, 8}) : random.pick({1, 3, 8, 24, 40, 48, 64, 80, 96, 128, 256});
  std::int64_t b = random.chance(0.02) ? 0 : random.pick({1, 1, 2, 3});
  std::int64_t h = random.pick({1, 2, 3, 4, 5, 6, 7, 8, 12, 16});

  const std::int64_t branches = random.integer(1, 4);
  for (std::int64_t i = 0; i < branches; ++i) {
    const std::int64_t w = detail::random_segment_length(random, n);
    c.config.segment_lengths.push_back(w);
    c.config.dilation_rates.push_back(detail::random_dilation_rate(random, std::min(w, n)));
  }
  if (long_case) {
    const std::int64_t kept = random.integer(longest_run_of_keys + 1, n);
    c.config.dilation_rates[0] = random.integer(1, n / kept);
    c.config.segment_lengths[0] = kept * c.config.dilation_rates[0];
  }
  // Members may be threads: a ring that outnumbers its tokens has few of them.
  c.config.ring_size =
      !long_case && random.chance(0.12) ? random.integer(n + 1, n + 20) : random.integer(1, 9);
  c.config.shard_layout = random.pick({ra::ShardLayout::contiguous, ra::ShardLayout::zigzag});
  c.config.mix_gradient = random.pick({ra::MixGradient::exact, ra::MixGradient::detached});
  if (random.chance(0.3)) c.config.scale = random.pick({0.125, 0.5, 1.0, 2.0, 0.0, -0.1, -0.7});

  c.q = {b, n, h, d};
  while (detail::work(c) > work_limit && c.q[0] > 1) --c.q[0];
  while (detail::work(c) > work_limit && c.q[2] > 1) --c.q[2];
  b = c.q[0];
  h = c.q[2];
  std::vector<std::int64_t> divisors;
  for (std::int64_t i = 1; i <= h; ++i) {
    if (h % i == 0) divisors.push_back(i);
  }
  c.k = {b, n, random.pick(divisors), d};
  if (random.chance(0.35)) {
    for (std::int64_t item = 0; item < b; ++item) {
      c.lengths.push_back(random.chance(0.3) ? random.pick({std::int64_t{0}, std::int64_t{1}, n})
                                             : random.integer(0, n));
    }
  }
  c.threads = static_cast<int>(random.integer(1, 3));
  c.q_layout = random_layout(random, true);
  c.k_layout = random_layout(random, true);
  c.v_layout = random_layout(random, true);
  c.out_layout = random_layout(random, false);
  c.lse_layout = random_layout(random, false);
  return c;
}

/// Lets all rows of q, k, v and out begin at multiples of `alignment` elements, as kernels of wide loads want
/// it.
inline RandomCase with_aligned_rows(RandomCase c, std::int64_t alignment) {
  c.q[3] = c.k[3] = (c.q[3] + alignment - 1) / alignment * alignment;
  for (Layout* layout : {&c.q_layout, &c.k_layout, &c.v_layout, &c.out_layout}) {
    for (std::int64_t* gap : {&layout->row_gap, &layout->group_gap, &layout->batch_gap, &layout->base}) {
      *gap *= alignment;
    }
  }
  return c;
}

inline std::string RandomCase::describe() const {
  std::ostringstream text;
  const auto list = [&text](const char* name, const std::vector<std::int64_t>& values) {
    text << name << " = {";
    for (std::size_t i = 0; i < values.size(); ++i) text << (i == 0 ? "" : ", ") << values[i];
    text << "}\n";
  };
  constexpr std::array partitions{"grouped", "shared"};
  constexpr std::array offsets{"by_branch", "by_head", "by_head_block"};
  constexpr std::array queries{"all", "dilated"};
  constexpr std::array paddings{"masked", "zero_attended"};
  constexpr std::array shards{"contiguous", "zigzag"};
  text << "seed = " << seed << '\n'
       << "q = " << ra::to_string(q) << ", k and v = " << ra::to_string(k) << '\n';
  list("segment_lengths", config.segment_lengths);
  list("dilation_rates", config.dilation_rates);
  text << "ring_size = " << config.ring_size << ' '
       << shards.at(static_cast<std::size_t>(config.shard_layout)) << ", causal = " << config.causal
       << ", scale = ";
  if (config.scale) {
    text << *config.scale << '\n';
  } else {
    text << "default\n";
  }
  text << "rules = " << partitions.at(static_cast<std::size_t>(config.head_partition)) << ' '
       << offsets.at(static_cast<std::size_t>(config.offset_rule)) << ' '
       << queries.at(static_cast<std::size_t>(config.query_rule)) << ' '
       << paddings.at(static_cast<std::size_t>(config.padding_rule)) << '\n';
  list("lengths", lengths);
  text << "threads = " << threads << "\nlayouts: q " << q_layout.describe() << "; k " << k_layout.describe()
       << "; v " << v_layout.describe() << "; out " << out_layout.describe() << "; lse "
       << lse_layout.describe() << '\n';
  return text.str();
}

}  // namespace test
