// Any numbers as a configuration: it is refused by std::invalid_argument where it breaks a rule of the
// contract, and otherwise computes what the float64 oracle computes.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <ring_attention/ring_attention.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "fuzz/property.hpp"
#include "support/block_case.hpp"
#include "support/check_backward.hpp"
#include "support/check_forward.hpp"
#include "support/random_case.hpp"

namespace {

namespace ra = ring_attention;
using fuzz::require;

/// Once in `times`. Never where the input has ended, so that short inputs are valid configurations.
bool draw_rarely(FuzzedDataProvider& draw, int times) {
  return draw.ConsumeIntegralInRange<int>(1, times) == times;
}

/// Mostly a number that a configuration may have, else any positive one, else any.
std::int64_t draw_number(FuzzedDataProvider& draw, std::int64_t low, std::int64_t high) {
  if (!draw_rarely(draw, 8)) return draw.ConsumeIntegralInRange(low, high);
  if (!draw_rarely(draw, 8)) return draw.ConsumeIntegralInRange<std::int64_t>(low, INT64_MAX);
  return draw.ConsumeIntegral<std::int64_t>();
}

std::vector<std::int64_t> draw_list(FuzzedDataProvider& draw, std::size_t size, std::int64_t high) {
  std::vector<std::int64_t> list;
  for (std::size_t i = 0; i < size; ++i) list.push_back(draw_number(draw, 1, high));
  return list;
}

/// Mostly one of the enumerators 0 to `last`, else any number.
template <class Enumeration>
Enumeration draw_enumerator(FuzzedDataProvider& draw, Enumeration last) {
  const int number = draw_rarely(draw, 64) ? draw.ConsumeIntegral<int>()
                                           : draw.ConsumeIntegralInRange<int>(0, static_cast<int>(last));
  return static_cast<Enumeration>(number);
}

ra::AttentionConfig draw_config(FuzzedDataProvider& draw) {
  ra::AttentionConfig config;
  const auto branches = draw_rarely(draw, 64) ? 0 : draw.ConsumeIntegralInRange<std::size_t>(1, 4);
  config.segment_lengths = draw_list(draw, branches, 48);
  const auto rates = draw_rarely(draw, 64) ? branches + 1 : branches;
  config.dilation_rates = draw_list(draw, rates, 9);
  config.ring_size = draw_number(draw, 1, 9);
  config.causal = draw.ConsumeBool();
  if (draw.ConsumeBool()) {
    config.scale = draw_rarely(draw, 16) ? draw.ConsumeFloatingPoint<double>()
                                         : draw.ConsumeFloatingPointInRange(-2.0, 2.0);
  }
  config.head_partition = draw_enumerator(draw, ra::HeadPartition::shared);
  config.offset_rule = draw_enumerator(draw, ra::OffsetRule::by_head_block);
  config.query_rule = draw_enumerator(draw, ra::QueryRule::dilated);
  config.padding_rule = draw_enumerator(draw, ra::PaddingRule::zero_attended);
  config.mix_gradient = draw_enumerator(draw, ra::MixGradient::detached);
  config.shard_layout = draw_enumerator(draw, ra::ShardLayout::zigzag);
  return config;
}

ra::BlockSparseConfig draw_sparse(FuzzedDataProvider& draw) {
  ra::BlockSparseConfig sparse;
  sparse.pattern = draw_enumerator(draw, ra::BlockPattern::custom);
  sparse.block_size = draw_number(draw, 1, 20);
  sparse.window = draw_number(draw, 0, 60);
  sparse.global_tokens = draw_number(draw, 0, 60);
  sparse.dilation_rates =
      draw_list(draw, draw_rarely(draw, 16) ? 0 : draw.ConsumeIntegralInRange<std::size_t>(1, 3), 6);
  const bool listed = sparse.pattern == ra::BlockPattern::custom || draw_rarely(draw, 64);
  const auto blocks = listed ? draw.ConsumeIntegralInRange<std::size_t>(0, 6) : 0;
  for (std::size_t i = 0; i < blocks; ++i) {
    sparse.blocks.push_back({draw_number(draw, 0, 6), draw_number(draw, 0, 6)});
  }
  return sparse;
}

template <class Enumeration>
bool is_enumerator(Enumeration value, Enumeration last) {
  return static_cast<int>(value) >= 0 && static_cast<int>(value) <= static_cast<int>(last);
}

bool all_positive(const std::vector<std::int64_t>& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](std::int64_t number) { return number > 0; });
}

/// The rules of the configuration, stated again.
bool is_valid(const ra::AttentionConfig& config) {
  return !config.segment_lengths.empty() && config.segment_lengths.size() == config.dilation_rates.size() &&
         all_positive(config.segment_lengths) && all_positive(config.dilation_rates) &&
         config.ring_size > 0 && (!config.scale || std::isfinite(*config.scale)) &&
         is_enumerator(config.head_partition, ra::HeadPartition::shared) &&
         is_enumerator(config.offset_rule, ra::OffsetRule::by_head_block) &&
         is_enumerator(config.query_rule, ra::QueryRule::dilated) &&
         is_enumerator(config.padding_rule, ra::PaddingRule::zero_attended) &&
         is_enumerator(config.mix_gradient, ra::MixGradient::detached) &&
         is_enumerator(config.shard_layout, ra::ShardLayout::zigzag);
}

bool is_valid(const ra::BlockSparseConfig& sparse) {
  return is_enumerator(sparse.pattern, ra::BlockPattern::custom) && sparse.block_size > 0 &&
         sparse.window >= 0 && sparse.global_tokens >= 0 && all_positive(sparse.dilation_rates) &&
         (sparse.pattern != ra::BlockPattern::dilated_sparse || !sparse.dilation_rates.empty()) &&
         (sparse.pattern == ra::BlockPattern::custom || sparse.blocks.empty()) &&
         std::all_of(sparse.blocks.begin(), sparse.blocks.end(),
                     [](const ra::BlockPair& pair) { return pair.query >= 0 && pair.key >= 0; });
}

/// Whether an action throws std::invalid_argument, whose text must be "argument = value: rule". Whatever else
/// it throws ends the process.
template <class Action>
bool refused(const Action& action) {
  try {
    action();
    return false;
  } catch (const std::invalid_argument& error) {
    const std::string text = error.what();
    const std::size_t value = text.find(" = ");
    require(value != std::string::npos && value > 0, "an error names the argument and its value: " + text);
    require(text.find(": ", value) != std::string::npos, "an error names the rule: " + text);
    return true;
  }
}

test::RandomCase draw_call(FuzzedDataProvider& draw, const ra::AttentionConfig& config) {
  test::RandomCase call;
  call.seed = draw.ConsumeIntegral<std::uint64_t>();
  call.config = config;
  const auto extent = [&draw](std::int64_t low, std::int64_t high) {
    return draw.ConsumeIntegralInRange(low, high);
  };
  const std::int64_t kv_heads = extent(1, 3);
  call.q = {extent(0, 2), extent(0, 40), kv_heads * extent(1, 3), extent(1, 4)};
  call.k = {call.q[0], call.q[1], kv_heads, call.q[3]};
  if (draw.ConsumeBool()) {
    for (std::int64_t item = 0; item < call.q[0]; ++item) call.lengths.push_back(extent(0, call.q[1]));
  }
  return call;
}

/// Every token belongs to one shard, however long the sequence and however large the ring.
void check_shards(const ra::AttentionConfig& config, std::int64_t tokens) {
  for (const std::int64_t member : {std::int64_t{0}, config.ring_size / 2, config.ring_size - 1}) {
    const auto shard = ra::detail::member_tokens(tokens, config.ring_size, config.shard_layout, member);
    for (const auto& run : shard.runs) {
      require(0 <= run.begin && run.begin <= run.end && run.end <= tokens, "a shard lies in the sequence");
    }
  }
  if (config.ring_size > 64) return;  // a list of all would be as long as the ring
  std::vector<ra::TokenRange> all;
  const auto ranges = ra::shard_ranges(tokens, config.ring_size, config.shard_layout);
  require(static_cast<std::int64_t>(ranges.size()) == config.ring_size, "every member has a shard");
  for (const auto& shard : ranges) all.insert(all.end(), shard.begin(), shard.end());
  std::sort(all.begin(), all.end());
  std::int64_t next = 0;
  for (const auto& [begin, end] : all) {
    require(begin == next && end > begin, "shards follow one another");
    next = end;
  }
  require(next == tokens, "shards cover the sequence");
}

template <class Attention>
void check_attention(const Attention& attention, const test::RandomCase& call, const std::string& name) {
  const std::string forward = test::check_forward<float>(call, [&attention](auto&&... arguments) {
    attention.forward(std::forward<decltype(arguments)>(arguments)...);
  });
  require(forward.empty(), name + " forward: " + forward + call.describe());
  const std::string backward = test::check_backward<float>(call, attention);
  require(backward.empty(), name + " backward: " + backward + call.describe());
}

void check_rules(FuzzedDataProvider& draw, const ra::AttentionConfig& config) {
  const bool valid = is_valid(config);
  require(refused([&config] { config.validate(); }) == !valid, "validate() refuses what breaks a rule");
  require(
      refused([&config] { ra::RingDilatedAttentionV2<float, ra::use_no_cache> attention(config); }) == !valid,
      "a constructor refuses what breaks a rule");
  require(refused([&config] { ra::TrueRingDilatedAttention<float> attention(config); }) ==
              (!valid || config.ring_size > INT32_MAX),
          "a constructor refuses more members than an int counts");
  if (!valid) return;
  const test::RandomCase call = draw_call(draw, config);
  // Any length has shards; a plan lists rows and is for lengths that a tensor has.
  check_shards(config,
               draw.ConsumeBool() ? call.q[1] : draw.ConsumeIntegralInRange<std::int64_t>(0, INT64_MAX));
  if (std::abs(config.scale.value_or(1)) > 2) return;  // the oracle's tolerances are for scores up to 1e4
  check_attention(ra::RingDilatedAttentionV2<float>(config), call, "RingDilatedAttentionV2");
  if (config.ring_size > 4) return;
  const ra::TrueRingDilatedAttention<float> ring(config);
  check_attention(ring, call, "TrueRingDilatedAttention");
  const ra::PlanReport report = ring.plan_report(call.q[1], call.q[2], call.k[2]);
  require(report.largest_over_mean >= 1, "the busiest member has no less than the mean");
}

void check_blocks(FuzzedDataProvider& draw, ra::AttentionConfig config) {
  config = {.segment_lengths = {1}, .dilation_rates = {1}, .causal = config.causal};
  const ra::BlockSparseConfig sparse = draw_sparse(draw);
  const bool valid = is_valid(sparse);
  using Attention = ra::BlockSparseRingDilatedAttention<float>;
  require(refused([&sparse] { sparse.validate(); }) == !valid, "validate() refuses what breaks a rule");
  require(refused([&] { Attention attention(config, sparse); }) == !valid,
          "a constructor refuses what breaks a rule");
  if (!valid) return;
  const test::BlockCase c{draw_call(draw, config), sparse};
  const Attention attention(config, sparse);
  const std::int64_t n = c.call.q[1];
  const bool in_range =
      std::all_of(sparse.blocks.begin(), sparse.blocks.end(), [&](const ra::BlockPair& pair) {
        const std::int64_t blocks = n / sparse.block_size + (n % sparse.block_size != 0);
        return pair.query < blocks && pair.key < blocks;
      });
  if (!in_range && c.call.q[0] > 0 && n > 0) {
    const ra::Tensor<float> q(c.call.q), k(c.call.k), v(c.call.k);
    require(refused([&] { attention.forward(q, k, v); }), "blocks past the sequence are refused");
    return;
  }
  if (!in_range) return;
  const std::string forward = test::check_block_forward<float>(c, attention);
  require(forward.empty(), "BlockSparse forward: " + forward + c.describe());
  const std::string backward = test::check_block_backward<float>(c, attention);
  require(backward.empty(), "BlockSparse backward: " + backward + c.describe());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider draw(data, size);
  const bool blocks = draw.ConsumeBool();
  const ra::AttentionConfig config = draw_config(draw);
  if (blocks) {
    check_blocks(draw, config);
  } else {
    check_rules(draw, config);
  }
  ra::clear_pattern_cache();  // every input starts alike
  return 0;
}
