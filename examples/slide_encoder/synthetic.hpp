// Weights and tiles of any size, for measuring without trained ones. The same on every machine.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "../support/safetensors.hpp"
#include "encoder_config.hpp"
#include "weights.hpp"

namespace slide_encoder {

namespace detail {

/// Uniform numbers of mean 0 and this deviation, by splitmix64.
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }
  float next(float deviation) {
    const float uniform = static_cast<float>(bits() >> 40) / static_cast<float>(1 << 23) - 1;  // in [-1, 1)
    return uniform * std::sqrt(3.0F) * deviation;
  }

 private:
  std::uint64_t state_;
};

}  // namespace detail

/// Products keep the size of their inputs, and layer norms differ a little from the identity.
inline void write_synthetic_weights(const std::string& path, const EncoderConfig& config) {
  detail::Numbers numbers(1);
  safetensors::Writer writer;
  for (const auto& [key, value] : to_metadata(config)) writer.set_metadata(key, value);
  std::vector<std::vector<float>> tensors;
  for (const auto& [name, shape] : weight_shapes(config)) {
    std::int64_t size = 1;
    for (const std::int64_t extent : shape) size *= extent;
    const bool is_matrix = shape.size() == 2;
    const bool is_scale = !is_matrix && name.ends_with(".weight");
    const float deviation = is_matrix ? 1 / std::sqrt(static_cast<float>(shape[1])) : 0.05F;
    std::vector<float>& values = tensors.emplace_back(static_cast<std::size_t>(size));
    for (float& value : values) value = (is_scale ? 1.0F : 0.0F) + numbers.next(deviation);
    writer.add(name, shape, values.data());
  }
  writer.save(path);
}

/// Features of deviation 1, positions anywhere on the grid.
inline void write_synthetic_tiles(const std::string& path, const EncoderConfig& config, std::int64_t count) {
  detail::Numbers numbers(2);
  std::vector<float> x(static_cast<std::size_t>(count * config.in_chans));
  for (float& value : x) value = numbers.next(1);
  const auto pixels = static_cast<std::uint64_t>(config.slide_ngrids * config.tile_size);
  std::vector<float> coords(static_cast<std::size_t>(2 * count));
  for (float& value : coords) value = static_cast<float>(numbers.bits() % pixels);
  safetensors::Writer writer;
  writer.add("x", {count, config.in_chans}, x.data());
  writer.add("coords", {count, 2}, coords.data());
  writer.save(path);
}

}  // namespace slide_encoder
