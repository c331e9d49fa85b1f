// Linear layers: y = x * weight^T + bias.
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bfloat16_product.hpp"
#include "matrix.hpp"
#include "weights.hpp"

namespace slide_encoder {

/// Takes rows of Scalar and gives rows of float. Float weights stay in the file where they can.
template <class Scalar>
class Linear;

template <>
class Linear<float> {
 public:
  Linear(const Weights& weights, const std::string& name)
      : bias_(weights.read(name + ".bias")), mapped_(weights.mapped(name + ".weight")) {
    if (mapped_ == nullptr) converted_ = weights.read(name + ".weight");
  }

  std::int64_t outputs() const { return static_cast<std::int64_t>(bias_.size()); }

  void operator()(const ConstRows<float>& x, Rows<float> y) const {
    const float* const values = mapped_ != nullptr ? mapped_ : converted_.data();
    const Eigen::Map<const Matrix<float>> weight(values, outputs(), x.cols());
    y.noalias() = x * weight.transpose();
    y.rowwise() += Eigen::Map<const Eigen::RowVectorXf>(bias_.data(), outputs());
  }

 private:
  std::vector<float> bias_;
  const float* mapped_;
  std::vector<float> converted_;
};

template <>
class Linear<Eigen::bfloat16> {
 public:
  Linear(const Weights& weights, const std::string& name) : bias_(weights.read(name + ".bias")) {
    const std::vector<float> values = weights.read(name + ".weight");
    const auto inputs = static_cast<std::int64_t>(values.size()) / outputs();
    const Eigen::Map<const Matrix<float>> weight(values.data(), outputs(), inputs);
#ifdef SLIDE_ENCODER_BFLOAT16_PAIRS
    if (inputs % 2 == 0) {
      panels_.emplace(weight);
      return;
    }
#endif
    rounded_ = weight.cast<Eigen::bfloat16>().cast<float>();
  }

  std::int64_t outputs() const { return static_cast<std::int64_t>(bias_.size()); }

  void operator()(const ConstRows<Eigen::bfloat16>& x, Rows<float> y) const {
#ifdef SLIDE_ENCODER_BFLOAT16_PAIRS
    if (panels_) {
      panels_->multiply(x, bias_.data(), y);
      return;
    }
#endif
    const Matrix<float> wide = x.cast<float>();
    y.noalias() = wide * rounded_.transpose();
    y.rowwise() += Eigen::Map<const Eigen::RowVectorXf>(bias_.data(), outputs());
  }

 private:
  std::vector<float> bias_;
#ifdef SLIDE_ENCODER_BFLOAT16_PAIRS
  std::optional<Bfloat16Panels> panels_;
#endif
  Matrix<float> rounded_;
};

}  // namespace slide_encoder
