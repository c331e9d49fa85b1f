// The command line of slide_encoder.
#pragma once

#include <cstdint>
#include <string>

#include "../support/command_line.hpp"
#include "encoder.hpp"

namespace slide_encoder {

struct Options {
  bool help = false;
  std::string weights;
  std::string tiles;
  std::string out;
  Pooling pooling = Pooling::cls;
  bool all_layers = false;
  bool bfloat16 = false;
  int threads = 0;  ///< 0: every core
  std::int64_t synthetic_tiles = 0;
};

inline constexpr const char* help_text =
    R"(slide_encoder: Prov-GigaPath's slide encoder on a CPU

usage: slide_encoder --weights W.safetensors --tiles T.safetensors --out E.safetensors [options]
       slide_encoder --synthetic-full N --weights W.safetensors --tiles T.safetensors

Reads tiles `x` [n, in_chans] or [1, n, in_chans] and `coords` [n, 2] or [1, n, 2] (pixels), and writes `embedding`
[1, embed]. Weights have the names of GigaPath's state dict and any of the types F32, F16 and BF16; the
configuration is in the metadata of their file (docs/guides/GIGAPATH_ON_CPU.md has a script that makes it).

  --out FILE           written whole or not at all
  --pool cls|mean      the class token (default) or the mean of the tiles
  --all-layers         also write `layer_embeddings` [layers + 1, embed]: of the state before the first layer and
                       after every layer, without the encoder's last layer norm (GigaPath's all_layer_embed)
  --scalar TYPE        float (default) or bfloat16: what products and attention read; sums are float
  --threads N          default: every core
  --synthetic-full N   make weights of the full model and N tiles instead, to measure without trained weights;
                       existing files are not overwritten
  --help
)";

/// Throws command_line::Error.
inline Options parse_options(int argc, const char* const* argv) {
  const command_line::Arguments arguments(
      argc, argv, {"--weights", "--tiles", "--out", "--pool", "--scalar", "--threads", "--synthetic-full"},
      {"--all-layers", "--help", "-h"});
  Options options;
  options.help = arguments.has("--help") || arguments.has("-h");
  if (options.help) return options;
  const bool synthetic = arguments.has("--synthetic-full");
  for (const char* name : {"--weights", "--tiles", "--out"}) {
    const bool wanted = !synthetic || std::string(name) != "--out";
    if (wanted && arguments.text(name).empty()) throw command_line::Error(std::string(name) + " is needed");
  }
  for (const char* name : {"--out", "--pool", "--all-layers", "--scalar", "--threads"}) {
    if (synthetic && arguments.has(name)) {
      throw command_line::Error(std::string("--synthetic-full makes no embedding: drop ") + name);
    }
  }
  options.weights = arguments.text("--weights");
  options.tiles = arguments.text("--tiles");
  options.out = arguments.text("--out");
  options.all_layers = arguments.has("--all-layers");
  arguments.choose<Pooling>("--pool", {{"cls", Pooling::cls}, {"mean", Pooling::mean}}, options.pooling);
  arguments.choose<bool>("--scalar", {{"float", false}, {"bfloat16", true}}, options.bfloat16);
  options.threads = arguments.positive<int>("--threads").value_or(0);
  options.synthetic_tiles = arguments.number<std::int64_t>("--synthetic-full").value_or(0);
  if (synthetic && (options.synthetic_tiles < 1 || options.synthetic_tiles > 1'000'000)) {
    throw command_line::Error("--synthetic-full = " + arguments.text("--synthetic-full") +
                              ": must lie in [1, 1000000]");
  }
  return options;
}

}  // namespace slide_encoder
