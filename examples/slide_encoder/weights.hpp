// The weights of a slide encoder: names and shapes as in GigaPath's state dict, and how they come into
// memory.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "../support/safetensors.hpp"
#include "encoder_config.hpp"

namespace slide_encoder {

/// Every tensor that a weights file must hold.
inline std::map<std::string, safetensors::Shape> weight_shapes(const EncoderConfig& config) {
  std::map<std::string, safetensors::Shape> shapes;
  const auto layer_norm = [&shapes](const std::string& name, std::int64_t width) {
    shapes[name + ".weight"] = shapes[name + ".bias"] = {width};
  };
  const auto linear = [&shapes](const std::string& name, std::int64_t out, std::int64_t in) {
    shapes[name + ".weight"] = {out, in};
    shapes[name + ".bias"] = {out};
  };
  shapes["cls_token"] = {1, 1, config.embed};
  linear("patch_embed.proj", config.embed, config.in_chans);
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const std::string layer = "encoder.layers." + std::to_string(i) + ".";
    layer_norm(layer + "self_attn_layer_norm", config.embed);
    for (const char* projection : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
      linear(layer + "self_attn." + projection, config.embed, config.embed);
    }
    layer_norm(layer + "self_attn.inner_attn_ln", config.embed);
    layer_norm(layer + "final_layer_norm", config.embed);
    linear(layer + "ffn.fc1", config.ffn, config.embed);
    layer_norm(layer + "ffn.ffn_layernorm", config.ffn);
    linear(layer + "ffn.fc2", config.embed, config.ffn);
  }
  layer_norm("encoder.layer_norm", config.embed);
  layer_norm("norm", config.embed);
  return shapes;
}

/// A weights file whose configuration, names, shapes and types are those of a slide encoder.
class Weights {
 public:
  /// Throws safetensors::Error that names the first tensor that is not as expected, and what was.
  explicit Weights(const std::string& path) : file_(path), config_(read_config(file_)) {
    // Before names are made for every layer. One too many is told by its first tensor.
    constexpr std::size_t tensors_of_layer = 20;
    const auto most_layers = static_cast<std::int64_t>(file_.tensors().size() / tensors_of_layer) + 1;
    if (config_.layers > most_layers) {
      fail("holds " + std::to_string(file_.tensors().size()) + " tensors, too few for " +
           std::to_string(config_.layers) + " layers");
    }
    const std::map<std::string, safetensors::Shape> shapes = weight_shapes(config_);
    for (const auto& [name, shape] : shapes) {
      const auto found = file_.tensors().find(name);
      if (found == file_.tensors().end()) {
        fail("tensor \"" + name + "\" is missing, expected shape " + safetensors::to_string(shape));
      }
      if (found->second.shape != shape) {
        fail("tensor \"" + name + "\" has shape " + safetensors::to_string(found->second.shape) +
             ", expected " + safetensors::to_string(shape));
      }
      if (!safetensors::is_floating_point(found->second.dtype)) {
        fail("tensor \"" + name + "\" has dtype " + std::string(safetensors::info(found->second.dtype).name) +
             ", expected F32, F16 or BF16");
      }
    }
    for (const auto& [name, tensor] : file_.tensors()) {
      if (!shapes.contains(name)) {
        fail("tensor \"" + name + "\" is unknown: no weight of an encoder of " +
             std::to_string(config_.layers) + " layers has this name");
      }
    }
  }

  const EncoderConfig& config() const { return config_; }
  const std::string& path() const { return file_.path(); }
  std::size_t size() const { return file_.tensors().size(); }

  /// The values of a tensor, in memory of their own. Throws safetensors::Error where one is not finite.
  std::vector<float> read(const std::string& name) const {
    const safetensors::TensorInfo& tensor = file_.tensor(name);
    std::vector<float> values((tensor.end - tensor.begin) / safetensors::info(tensor.dtype).bytes);
    safetensors::convert(tensor.dtype, file_.bytes(tensor), values.size(), values.data());
    file_.forget(tensor, 0, tensor.end - tensor.begin);
    check_finite(name, values.data(), values.size());
    return values;
  }

  /// The values where they lie in the file, or null where they are of another type or lie athwart.
  const float* mapped(const std::string& name) const {
    const safetensors::TensorInfo& tensor = file_.tensor(name);
    const std::byte* bytes = file_.bytes(tensor);
    if (tensor.dtype != safetensors::Dtype::f32 ||
        reinterpret_cast<std::uintptr_t>(bytes) % alignof(float) != 0) {
      return nullptr;
    }
    const auto* values = reinterpret_cast<const float*>(bytes);
    check_finite(name, values, (tensor.end - tensor.begin) / sizeof(float));
    return values;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw safetensors::Error(path() + ": " + what); }

  void check_finite(const std::string& name, const float* values, std::size_t count) const {
    if (!Eigen::Map<const Eigen::ArrayXf>(values, static_cast<Eigen::Index>(count)).allFinite()) {
      fail("tensor \"" + name + "\" holds values that are not finite");
    }
  }

  safetensors::MappedFile file_;
  EncoderConfig config_;
};

}  // namespace slide_encoder
