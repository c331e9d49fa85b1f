// Reference outputs in tests/data: safetensors files of float32 tensors [b, n, h, d], with a configuration.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <ring_attention/config.hpp>
#include <ring_attention/tensor.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace test {

namespace ra = ring_attention;

inline const std::vector<std::string>& golden_names() {
  static const std::vector<std::string> names{"gigapath_small",      "longnet_even",
                                              "longnet_even_causal", "longnet_head_padding",
                                              "longnet_ragged",      "longnet_ragged_causal"};
  return names;
}

struct Golden {
  ra::AttentionConfig config;
  std::map<std::string, ra::Tensor<float>> tensors;  // q, k, v, out, grad_out, grad_q, grad_k, grad_v

  const ra::Tensor<float>& operator[](const std::string& name) const { return tensors.at(name); }
};

inline Golden load_golden(const std::string& name) {
  const std::string path = std::string(RING_ATTENTION_TEST_DATA_DIR) + "/" + name + ".safetensors";
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::uint64_t header_size = 0;  // little-endian, as the hosts that the tests run on
  if (!file || bytes.size() < sizeof header_size) throw std::runtime_error("cannot read " + path);
  std::memcpy(&header_size, bytes.data(), sizeof header_size);
  if (header_size > bytes.size() - sizeof header_size) throw std::runtime_error(path + " is truncated");
  const auto header = nlohmann::json::parse(bytes.substr(sizeof header_size, header_size));
  const std::size_t data_begin = sizeof header_size + header_size;

  Golden golden;
  for (const auto& [key, entry] : header.items()) {
    if (key == "__metadata__") continue;
    if (entry.at("dtype") != "F32") throw std::runtime_error(path + ": " + key + " is not float32");
    const auto shape = entry.at("shape").get<ra::Shape>();
    const auto [begin, end] = entry.at("data_offsets").get<std::pair<std::size_t, std::size_t>>();
    ra::Tensor<float> tensor(shape);
    const auto size = static_cast<std::size_t>(tensor.size()) * sizeof(float);
    if (end < begin || end - begin != size || end > bytes.size() - data_begin) {
      throw std::runtime_error(path + ": " + key + " does not fit the file");
    }
    std::memcpy(tensor.data(), bytes.data() + data_begin + begin, size);
    golden.tensors.emplace(key, std::move(tensor));
  }

  const auto metadata = [&header](const char* key) {
    return header.at("__metadata__").at(key).get<std::string>();
  };
  using List = std::vector<std::int64_t>;
  golden.config = ra::torchscale_preset();
  golden.config.segment_lengths = nlohmann::json::parse(metadata("segment_lengths")).get<List>();
  golden.config.dilation_rates = nlohmann::json::parse(metadata("dilation_rates")).get<List>();
  golden.config.causal = metadata("causal") == "true";
  golden.config.mix_gradient = ra::MixGradient::detached;
  return golden;
}

}  // namespace test
