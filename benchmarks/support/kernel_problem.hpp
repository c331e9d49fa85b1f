// The tensors of one timed problem, its calls, and their checks.
#pragma once

#include <cstdint>
#include <optional>
#include <ring_attention/ring_attention.hpp>

#include "attention_patterns.hpp"
#include "sampled_oracle.hpp"

namespace benchmarks {

template <class Scalar>
class KernelProblem {
 public:
  KernelProblem(const Configuration& configuration, std::int64_t head_dim)
      : attention_(configuration.config),
        q_(1, configuration.tokens, configuration.heads, head_dim),
        k_(q_.shape()),
        v_(q_.shape()),
        grad_out_(q_.shape()),
        sampled_grad_out_(q_.shape()),
        result_{ra::Tensor<Scalar>(q_.shape()),
                ra::Tensor<ra::accumulator_t<Scalar>>(1, configuration.heads, configuration.tokens, 1)} {
    std::uint32_t seed = 20231;
    for (ra::Tensor<Scalar>* tensor : {&q_, &k_, &v_, &grad_out_}) fill(*tensor, seed);
    oracle_.emplace(configuration.config, q_, k_, v_);
    for (const std::int64_t t : oracle_->rows()) {
      std::copy_n(grad_out_.view().row(0, t, 0), configuration.heads * head_dim,
                  sampled_grad_out_.view().row(0, t, 0));
    }
  }

  void call(Direction direction) {
    if (direction == Direction::forward) {
      attention_.forward(q_, k_, v_, result_.out);
    } else {
      gradients_ = attention_.backward(q_, k_, v_, result_, grad_out_);
    }
  }

  /// The largest error in units of the tolerance; call() has what it needs from then on. Throws
  /// std::runtime_error that says what is wrong.
  double validate(Direction direction) {
    std::fill_n(result_.out.data(), result_.out.size(), std::numeric_limits<Scalar>::quiet_NaN());
    attention_.forward(q_, k_, v_, result_.out, result_.lse);
    const double forward = oracle_->check_forward(result_.out, result_.lse);
    if (direction == Direction::forward) return forward;
    gradients_ = attention_.backward(q_, k_, v_, result_, sampled_grad_out_);
    return oracle_->check_backward(gradients_, sampled_grad_out_);
  }

 private:
  /// Uniform numbers of mean 0 and variance 1.
  static void fill(ra::Tensor<Scalar>& tensor, std::uint32_t& seed) {
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      seed = seed * 1664525U + 1013904223U;
      tensor.data()[i] = static_cast<Scalar>((static_cast<float>(seed >> 8) * 0x1p-23F - 1.0F) * 1.7320508F);
    }
  }

  ra::RingDilatedAttentionV2<Scalar> attention_;
  ra::Tensor<Scalar> q_, k_, v_, grad_out_;
  ra::Tensor<Scalar> sampled_grad_out_;  ///< 0 but in the rows that are checked
  ra::AttentionResult<Scalar> result_;
  ra::Gradients<Scalar> gradients_;
  std::optional<SampledOracle<Scalar>> oracle_;
};

}  // namespace benchmarks
