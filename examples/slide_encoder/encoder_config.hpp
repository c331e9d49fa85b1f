// The configuration of a slide encoder, kept in the metadata of its weights file.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <ring_attention/config.hpp>
#include <string>
#include <vector>

#include "../support/safetensors.hpp"
#include "../support/whole_number.hpp"

namespace slide_encoder {

namespace ra = ring_attention;

/// By default Prov-GigaPath's slide encoder.
struct EncoderConfig {
  std::int64_t layers = 12;
  std::int64_t embed = 768;
  std::int64_t heads = 16;
  std::int64_t ffn = 3072;
  std::int64_t in_chans = 1536;
  std::int64_t slide_ngrids = 1000;  ///< cells along each side of the grid of positions
  std::int64_t tile_size = 256;      ///< pixels along each side of a cell
  std::vector<std::int64_t> segment_lengths{1024, 5792, 32768, 185363, 1048576};
  std::vector<std::int64_t> dilation_rates{1, 2, 4, 8, 16};
  float layernorm_eps = 1e-5F;  ///< of all layer norms but the last
  float norm_eps = 1e-6F;       ///< of the layer norm of the embedding

  ra::AttentionConfig attention() const {
    ra::AttentionConfig config = ra::torchscale_preset();
    config.segment_lengths = segment_lengths;
    config.dilation_rates = dilation_rates;
    return config;
  }
};

namespace detail {

/// Reads or writes every field: `field(name, value)`.
template <class Config, class Field>
void for_each_field(Config& config, const Field& field) {
  field("layers", config.layers);
  field("embed", config.embed);
  field("heads", config.heads);
  field("ffn", config.ffn);
  field("in_chans", config.in_chans);
  field("slide_ngrids", config.slide_ngrids);
  field("tile_size", config.tile_size);
  field("segment_lengths", config.segment_lengths);
  field("dilation_rates", config.dilation_rates);
  field("layernorm_eps", config.layernorm_eps);
  field("norm_eps", config.norm_eps);
}

inline bool parse(const std::string& text, std::int64_t& value) {
  value = whole_number<std::int64_t>(text).value_or(0);
  // Sizes of tensors are products of a few of these: none may overflow.
  return value > 0 && value <= 1'000'000'000;
}

inline bool parse(const std::string& text, float& value) {
  value = whole_number<float>(text).value_or(-1.0F);
  return value >= 0 && value < 1;
}

inline bool parse(const std::string& text, std::vector<std::int64_t>& value) {
  const nlohmann::json list = nlohmann::json::parse(text, nullptr, false);
  value.clear();
  if (!list.is_array()) return false;
  for (const nlohmann::json& item : list) {
    if (!item.is_number_integer() || item.get<std::int64_t>() <= 0) return false;
    value.push_back(item.get<std::int64_t>());
  }
  return !value.empty();
}

inline const char* expected(const std::int64_t&) { return "an integer from 1 to 1000000000"; }
inline const char* expected(const float&) { return "a number in [0, 1)"; }
inline const char* expected(const std::vector<std::int64_t>&) { return "a list of positive integers"; }

}  // namespace detail

/// Throws safetensors::Error that names the entry and what is expected of it.
inline EncoderConfig read_config(const safetensors::File& file) {
  const auto fail = [&file](const std::string& what) {
    throw safetensors::Error(file.path() + ": metadata " + what);
  };
  EncoderConfig config;
  detail::for_each_field(config, [&](const char* name, auto& value) {
    const auto entry = file.metadata().find(name);
    if (entry == file.metadata().end()) {
      fail(std::string("lacks \"") + name + "\", expected " + detail::expected(value));
    } else if (!detail::parse(entry->second, value)) {
      fail(std::string("\"") + name + "\" is \"" + entry->second + "\", expected " + detail::expected(value));
    }
  });
  if (config.embed % config.heads != 0) fail("\"embed\" must be a multiple of \"heads\"");
  if (config.embed % 4 != 0) {
    fail("\"embed\" must be a multiple of 4: sines and cosines of two coordinates make up a position");
  }
  if (config.segment_lengths.size() != config.dilation_rates.size()) {
    fail("\"segment_lengths\" and \"dilation_rates\" must be of one length");
  }
  return config;
}

inline std::map<std::string, std::string> to_metadata(const EncoderConfig& config) {
  std::map<std::string, std::string> metadata;
  detail::for_each_field(config, [&metadata](const char* name, const auto& value) {
    metadata[name] = nlohmann::json(value).dump();
  });
  return metadata;
}

}  // namespace slide_encoder
