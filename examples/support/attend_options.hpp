// The command line of attend: what it may say, its help text, and the configuration that results from it and
// from the input file's metadata.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <ring_attention/config.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "command_line.hpp"

namespace examples {

namespace ra = ring_attention;

enum class ScalarName { float32, float64, half, bfloat16 };
enum class Layout { bnhd, bhnd };

struct AttendOptions {
  bool help = false;
  std::string input;
  std::string output;
  ra::AttentionConfig config = ra::ring_preset();
  std::optional<bool> causal;
  std::vector<std::int64_t> lengths;
  std::optional<ScalarName> scalar;
  Layout layout = Layout::bnhd;
  int threads = 0;  ///< 0: every core
  std::string compare;
  std::optional<double> tolerance;
};

inline constexpr const char* attend_help =
    R"(attend: ring dilated attention over the tensors of a safetensors file

usage: attend --input FILE [--output FILE] [--compare NAME] [options]

Reads q, k and v, writes out (shaped like q) and lse ([b, h, n]). Settings that the input file's metadata
holds (segment_lengths, dilation_rates, causal) are defaults.

  --input FILE            safetensors file with tensors q, k, v of F32, F64, F16 or BF16
  --output FILE           written whole or not at all
  --compare NAME          compare the output with this tensor of the input file; exit status 1 if it differs
  --tolerance X           largest accepted |difference| / max(1, |reference|), or with 16 bits / max(1,
                          |reference|, V / 5), V the largest value; default by precision: F64 1e-12,
                          F32 2e-5, F16 4e-3, BF16 2.5e-2 (the wider of result and reference)

which tokens attend to which
  --segments W,W,...      segment length of each branch, in tokens
  --rates R,R,...         dilation rate of each branch
  --preset NAME           ring (default), longnet or torchscale: sets the four rules below
  --head-partition RULE   grouped, shared
  --offset-rule RULE      by_branch, by_head, by_head_block
  --query-rule RULE       all, dilated
  --padding-rule RULE     masked, zero_attended
  --causal, --no-causal   whether keys after the query are hidden
  --scale X               factor of the scores (default 1 / sqrt(head dimension))
  --lengths M,M,...       valid tokens of each batch item
  --ring-size P           visit the sequence in P shards (default 1); the result stays the same up to rounding

how
  --scalar TYPE           float, double, half or bfloat16; default: the type of q
  --layout LAYOUT         bnhd (default: [batch, tokens, heads, dim]) or bhnd ([batch, heads, tokens, dim])
  --threads N             default: every core
  --help

example, on reference outputs of torchscale (segments, rates and causal come from the file):
  attend --input tests/data/longnet_even.safetensors --preset torchscale --compare out --output out.safetensors
)";

/// Throws command_line::Error.
inline AttendOptions parse_attend_options(int argc, const char* const* argv) {
  const command_line::Arguments arguments(
      argc, argv,
      {"--input", "--output", "--compare", "--tolerance", "--segments", "--rates", "--preset",
       "--head-partition", "--offset-rule", "--query-rule", "--padding-rule", "--scale", "--lengths",
       "--ring-size", "--scalar", "--layout", "--threads"},
      {"--causal", "--no-causal", "--help", "-h"});
  AttendOptions options;
  options.help = arguments.has("--help") || arguments.has("-h");
  options.input = arguments.text("--input");
  options.output = arguments.text("--output");
  options.compare = arguments.text("--compare");
  options.tolerance = arguments.number<double>("--tolerance");
  options.lengths = arguments.list("--lengths");
  options.threads = arguments.positive<int>("--threads").value_or(0);
  arguments.choose<std::optional<ScalarName>>("--scalar",
                                              {{"float", ScalarName::float32},
                                               {"double", ScalarName::float64},
                                               {"half", ScalarName::half},
                                               {"bfloat16", ScalarName::bfloat16}},
                                              options.scalar);
  arguments.choose<Layout>("--layout", {{"bnhd", Layout::bnhd}, {"bhnd", Layout::bhnd}}, options.layout);

  ra::AttentionConfig& config = options.config;  // the preset first: rules named beside it win
  arguments.choose<ra::AttentionConfig>("--preset",
                                        {{"ring", ra::ring_preset()},
                                         {"longnet", ra::longnet_preset()},
                                         {"torchscale", ra::torchscale_preset()}},
                                        config);
  arguments.choose<ra::HeadPartition>(
      "--head-partition", {{"grouped", ra::HeadPartition::grouped}, {"shared", ra::HeadPartition::shared}},
      config.head_partition);
  arguments.choose<ra::OffsetRule>("--offset-rule",
                                   {{"by_branch", ra::OffsetRule::by_branch},
                                    {"by_head", ra::OffsetRule::by_head},
                                    {"by_head_block", ra::OffsetRule::by_head_block}},
                                   config.offset_rule);
  arguments.choose<ra::QueryRule>(
      "--query-rule", {{"all", ra::QueryRule::all}, {"dilated", ra::QueryRule::dilated}}, config.query_rule);
  arguments.choose<ra::PaddingRule>(
      "--padding-rule",
      {{"masked", ra::PaddingRule::masked}, {"zero_attended", ra::PaddingRule::zero_attended}},
      config.padding_rule);
  config.segment_lengths = arguments.list("--segments");
  config.dilation_rates = arguments.list("--rates");
  config.scale = arguments.number<double>("--scale");
  config.ring_size = arguments.number<std::int64_t>("--ring-size").value_or(1);
  if (arguments.has("--causal") || arguments.has("--no-causal")) options.causal = arguments.has("--causal");

  if (options.help) return options;
  if (options.input.empty()) throw command_line::Error("--input is needed (see --help)");
  if (options.output.empty() && options.compare.empty()) {
    throw command_line::Error("--output or --compare is needed (see --help)");
  }
  if (arguments.has("--causal") && arguments.has("--no-causal")) {
    throw command_line::Error("--causal and --no-causal exclude each other");
  }
  return options;
}

/// Fills what the command line left open from the metadata of a file, where each value is a text: "[16, 46,
/// 128]", "true". Throws std::invalid_argument for an entry of another form, or where nobody gives segments
/// or rates.
inline void complete_from_metadata(AttendOptions& options,
                                   const std::map<std::string, std::string>& metadata) {
  const auto fill_list = [&metadata](const std::string& key, const char* argument,
                                     std::vector<std::int64_t>& list) {
    if (!list.empty()) return;
    const auto found = metadata.find(key);
    if (found == metadata.end()) {
      throw std::invalid_argument(std::string(argument) + " is needed: the file's metadata has no " + key);
    }
    try {
      list = nlohmann::json::parse(found->second).get<std::vector<std::int64_t>>();
    } catch (const nlohmann::json::exception&) {
      throw std::invalid_argument("metadata " + key + " = \"" + found->second +
                                  "\": must be a list of integers");
    }
  };
  fill_list("segment_lengths", "--segments", options.config.segment_lengths);
  fill_list("dilation_rates", "--rates", options.config.dilation_rates);

  const auto causal = metadata.find("causal");
  if (options.causal) {
    options.config.causal = *options.causal;
  } else if (causal != metadata.end()) {
    if (causal->second != "true" && causal->second != "false") {
      throw std::invalid_argument("metadata causal = \"" + causal->second + "\": must be true or false");
    }
    options.config.causal = causal->second == "true";
  }
}

}  // namespace examples
