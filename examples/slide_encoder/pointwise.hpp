// What happens between products: layer norm and GELU.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <unsupported/Eigen/SpecialFunctions>
#include <vector>

#include "matrix.hpp"
#include "weights.hpp"

namespace slide_encoder {

/// Normalises rows: (x - mean) / sqrt(variance + epsilon) * weight + bias.
class LayerNorm {
 public:
  LayerNorm(const Weights& weights, const std::string& name, float epsilon)
      : weight_(as_array(weights.read(name + ".weight"))),
        bias_(as_array(weights.read(name + ".bias"))),
        epsilon_(epsilon) {}

  /// x and y may be the same rows. Throws std::runtime_error where the variance of a row is not finite.
  template <class From, class To>
  void operator()(const From& x, To&& y) const {
    Eigen::ArrayXf row(x.cols());
    for (Eigen::Index i = 0; i < x.rows(); ++i) {
      row = x.row(i).transpose().array().template cast<float>();
      row -= row.mean();
      // Not from the mean of squares: that would cancel where the mean is large.
      const float variance = row.square().mean();
      // An infinite one would make the factor 0, and the overflow would end in a finite result.
      if (!std::isfinite(variance)) {
        throw std::runtime_error("a layer norm overflows: weights or tiles are too large");
      }
      const float factor = 1 / std::sqrt(variance + epsilon_);
      y.row(i) = (row * factor * weight_ + bias_)
                     .matrix()
                     .transpose()
                     .template cast<typename std::decay_t<To>::Scalar>();
    }
  }

 private:
  static Eigen::ArrayXf as_array(const std::vector<float>& values) {
    return Eigen::Map<const Eigen::ArrayXf>(values.data(), static_cast<Eigen::Index>(values.size()));
  }

  Eigen::ArrayXf weight_;
  Eigen::ArrayXf bias_;
  float epsilon_;
};

/// x * P(normal variable < x), in place: GELU by erf, not by its approximation with tanh.
template <class Values>
void gelu(Values&& values) {
  const float root_half = std::sqrt(0.5F);
  values.array() *= 0.5F + 0.5F * (root_half * values.array()).erf();
}

}  // namespace slide_encoder
