#include <cmath>
#include <limits>
#include <ring_attention/config.hpp>
#include <string>

#include "support/catch.hpp"
#include "support/error_text.hpp"

namespace ra = ring_attention;

namespace {

/// The error of a valid two-branch configuration after a change.
template <class Change>
std::string error_after(Change&& change) {
  ra::AttentionConfig config = ra::ring_preset();
  config.segment_lengths = {16, 32};
  config.dilation_rates = {1, 2};
  config.validate();
  change(config);
  return test::error_text([&config] { config.validate(); });
}

}  // namespace

TEST_CASE("presets hold the rules that the published variants follow", "[config]") {
  const ra::AttentionConfig ring = ra::ring_preset();
  CHECK(ring.head_partition == ra::HeadPartition::grouped);
  CHECK(ring.offset_rule == ra::OffsetRule::by_branch);
  CHECK(ring.query_rule == ra::QueryRule::all);
  CHECK(ring.padding_rule == ra::PaddingRule::masked);

  const ra::AttentionConfig longnet = ra::longnet_preset();
  CHECK(longnet.head_partition == ra::HeadPartition::shared);
  CHECK(longnet.offset_rule == ra::OffsetRule::by_head);
  CHECK(longnet.query_rule == ra::QueryRule::dilated);
  CHECK(longnet.padding_rule == ra::PaddingRule::masked);

  const ra::AttentionConfig torchscale = ra::torchscale_preset();
  CHECK(torchscale.head_partition == ra::HeadPartition::shared);
  CHECK(torchscale.offset_rule == ra::OffsetRule::by_head_block);
  CHECK(torchscale.query_rule == ra::QueryRule::dilated);
  CHECK(torchscale.padding_rule == ra::PaddingRule::zero_attended);
}

TEST_CASE("presets leave everything else at its default", "[config]") {
  for (const ra::AttentionConfig& config :
       {ra::ring_preset(), ra::longnet_preset(), ra::torchscale_preset()}) {
    CHECK(config.segment_lengths.empty());
    CHECK(config.dilation_rates.empty());
    CHECK(config.ring_size == 1);
    CHECK_FALSE(config.causal);
    CHECK_FALSE(config.scale.has_value());
    CHECK(config.mix_gradient == ra::MixGradient::exact);
    CHECK(config.shard_layout == ra::ShardLayout::contiguous);
  }
}

TEST_CASE("configurations compare by every field", "[config]") {
  const ra::AttentionConfig base = ra::ring_preset();
  CHECK(base == ra::ring_preset());
  CHECK_FALSE(base == ra::longnet_preset());
  ra::AttentionConfig changed = base;
  changed.scale = 0.5;
  CHECK_FALSE(changed == base);
  changed = base;
  changed.shard_layout = ra::ShardLayout::zigzag;
  CHECK_FALSE(changed == base);
}

TEST_CASE("a valid configuration is accepted", "[config]") {
  CHECK(error_after([](ra::AttentionConfig&) {}) == "no error");
  CHECK(error_after([](ra::AttentionConfig& c) { c.scale = 0.0; }) == "no error");
  CHECK(error_after([](ra::AttentionConfig& c) { c.scale = -3.5; }) == "no error");
  CHECK(error_after([](ra::AttentionConfig& c) { c.ring_size = 1000; }) == "no error");
  CHECK(error_after([](ra::AttentionConfig& c) {
          c.segment_lengths[0] = std::numeric_limits<std::int64_t>::max();
        }) == "no error");
}

TEST_CASE("an invalid configuration is refused with argument, value and rule", "[config][errors]") {
  CHECK(error_after([](ra::AttentionConfig& c) {
          c.segment_lengths.clear();
          c.dilation_rates.clear();
        }) == "segment_lengths.size() = 0: at least one branch is needed");
  CHECK(error_after([](ra::AttentionConfig& c) { c.dilation_rates.push_back(4); }) ==
        "dilation_rates.size() = 3: must equal segment_lengths.size() = 2");
  CHECK(error_after([](ra::AttentionConfig& c) { c.segment_lengths[1] = 0; }) ==
        "segment_lengths[1] = 0: must be positive");
  CHECK(error_after([](ra::AttentionConfig& c) { c.segment_lengths[0] = -7; }) ==
        "segment_lengths[0] = -7: must be positive");
  CHECK(error_after([](ra::AttentionConfig& c) { c.dilation_rates[0] = -1; }) ==
        "dilation_rates[0] = -1: must be positive");
  CHECK(error_after([](ra::AttentionConfig& c) { c.ring_size = 0; }) == "ring_size = 0: must be positive");
  CHECK(error_after([](ra::AttentionConfig& c) { c.ring_size = -2; }) == "ring_size = -2: must be positive");
  CHECK(error_after([](ra::AttentionConfig& c) { c.scale = std::nan(""); }) == "scale = nan: must be finite");
  CHECK(error_after([](ra::AttentionConfig& c) { c.scale = std::numeric_limits<double>::infinity(); }) ==
        "scale = inf: must be finite");
  CHECK(error_after([](ra::AttentionConfig& c) { c.query_rule = static_cast<ra::QueryRule>(7); }) ==
        "query_rule = 7: is not a value of its enumeration");
}
