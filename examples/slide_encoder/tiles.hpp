// The tiles of a slide: a feature vector and a position for each.
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "../support/safetensors.hpp"
#include "encoder_config.hpp"

namespace slide_encoder {

/// Cell of the grid of positions.
struct Cell {
  std::int64_t u;
  std::int64_t v;
};

/// `x` and `coords` of a file. Features stay in the file until they are used.
class Tiles {
 public:
  /// Throws safetensors::Error that names the tensor that is not as this encoder expects, and what was.
  Tiles(const std::string& path, const EncoderConfig& config) : file_(path) {
    count_ = check_shape("x", config.in_chans);
    x_ = file_.tensor("x");
    if (count_ == 0) fail("tensor \"x\" holds no tiles");
    if (!safetensors::is_floating_point(x_.dtype)) {
      fail("tensor \"x\" has dtype " + std::string(safetensors::info(x_.dtype).name) +
           ", expected F64, F32, F16 or BF16");
    }
    if (check_shape("coords", 2) != count_) {
      fail("tensor \"coords\" has shape " + safetensors::to_string(file_.tensor("coords").shape) +
           ", expected [" + std::to_string(count_) + ", 2]: a pair for each tile of \"x\"");
    }
    read_cells(config);
  }

  std::int64_t count() const { return count_; }
  const Cell& cell(std::int64_t tile) const { return cells_[static_cast<std::size_t>(tile)]; }

  /// Features of consecutive tiles, a row each. Throws safetensors::Error where one is not finite.
  template <class Rows>
  void read(std::int64_t first, Rows&& rows) const {
    const auto width = static_cast<std::uint64_t>(rows.cols()) * safetensors::info(x_.dtype).bytes;
    const std::uint64_t begin = static_cast<std::uint64_t>(first) * width;
    const auto values = static_cast<std::size_t>(rows.size());
    safetensors::convert(x_.dtype, file_.bytes(x_) + begin, values, rows.data());
    file_.forget(x_, begin, begin + static_cast<std::uint64_t>(rows.rows()) * width);
    if (rows.allFinite()) return;
    for (Eigen::Index row = 0; row < rows.rows(); ++row) {
      if (!rows.row(row).allFinite()) {
        fail("tensor \"x\" holds values that are not finite, in row " + std::to_string(first + row));
      }
    }
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw safetensors::Error(file_.path() + ": " + what);
  }

  /// Rows of a tensor that must be [n, width] or [1, n, width].
  std::int64_t check_shape(const std::string& name, std::int64_t width) const {
    const std::string tail = "n, " + std::to_string(width) + "]";
    const std::string expected = "expected shape [" + tail + " or [1, " + tail;
    if (!file_.contains(name)) fail("tensor \"" + name + "\" is missing, " + expected);
    const safetensors::Shape& shape = file_.tensor(name).shape;
    const bool batched = shape.size() == 3 && shape[0] == 1;
    if ((shape.size() != 2 && !batched) || shape.back() != width) {
      fail("tensor \"" + name + "\" has shape " + safetensors::to_string(shape) + ", " + expected);
    }
    return shape[shape.size() - 2];
  }

  template <class Number>
  double coordinate(std::size_t index) const {
    Number value;
    std::memcpy(&value, file_.bytes(file_.tensor("coords")) + index * sizeof(Number), sizeof value);
    return static_cast<double>(value);
  }

  double coordinate(safetensors::Dtype dtype, std::size_t index) const {
    switch (dtype) {
      case safetensors::Dtype::f64:
        return coordinate<double>(index);
      case safetensors::Dtype::f32:
        return coordinate<float>(index);
      case safetensors::Dtype::i64:
        return coordinate<std::int64_t>(index);
      case safetensors::Dtype::i32:
        return coordinate<std::int32_t>(index);
      default:  // pixels of large slides have more digits than 16-bit types
        fail("tensor \"coords\" has dtype " + std::string(safetensors::info(dtype).name) +
             ", expected F64, F32, I64 or I32");
    }
  }

  void read_cells(const EncoderConfig& config) {
    const safetensors::Dtype dtype = file_.tensor("coords").dtype;
    const auto end = static_cast<double>(config.slide_ngrids * config.tile_size);
    for (std::int64_t tile = 0; tile < count_; ++tile) {
      std::int64_t cell[2];
      for (std::size_t axis = 0; axis < 2; ++axis) {
        const double value = coordinate(dtype, 2 * static_cast<std::size_t>(tile) + axis);
        if (!(value >= 0 && value < end)) {
          fail("tensor \"coords\" has " + std::to_string(value) + " at [" + std::to_string(tile) + ", " +
               std::to_string(axis) + "], expected a number in [0, " + std::to_string(std::int64_t(end)) +
               "): slide_ngrids * tile_size");
        }
        cell[axis] = static_cast<std::int64_t>(value) / config.tile_size;
      }
      cells_.push_back({cell[0], cell[1]});
    }
  }

  safetensors::MappedFile file_;
  safetensors::TensorInfo x_;
  std::int64_t count_ = 0;
  std::vector<Cell> cells_;
};

}  // namespace slide_encoder
