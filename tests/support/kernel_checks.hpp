// What every kernel has to pass, each check for attention classes that are made by functions: `make(config)`
// for one over whole tensors.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <ring_attention/config.hpp>
#include <ring_attention/scalar.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/block_case.hpp"
#include "support/catch.hpp"
#include "support/check_backward.hpp"
#include "support/check_classes.hpp"
#include "support/check_forward.hpp"
#include "support/random_case.hpp"
#include "support/tensors.hpp"

namespace test {

/// Forward and backward against the oracle, which takes far longer than they do and is asked once for all of
/// these: `makers` are names and what makes an attention object.
template <class Scalar, class Make>
void check_both(const RandomCase& c, const std::vector<std::pair<std::string, Make>>& makers) {
  INFO(c.describe());
  ClassCheck<Scalar> check(c);
  for (const auto& [name, make] : makers) check.check(name.c_str(), make(c.config));
  INFO(check.text());
  CHECK(check.text().empty());
}

/// A case of one head dimension.
inline RandomCase case_of_dimension(std::int64_t head_dim, bool causal) {
  RandomCase c;
  c.seed = static_cast<std::uint64_t>(2 * head_dim + causal);
  c.config.segment_lengths = {150, 40};
  c.config.dilation_rates = {1, 3};
  c.config.head_partition = ra::HeadPartition::shared;
  c.config.causal = causal;
  c.q = {1, 150, 2, head_dim};
  c.k = {1, 150, 1, head_dim};
  return c;
}

template <class Scalar, class Make>
void check_head_dimension(std::int64_t head_dim, const std::vector<std::pair<std::string, Make>>& makers) {
  for (const bool causal : {false, true}) check_both<Scalar>(case_of_dimension(head_dim, causal), makers);
}

template <class Scalar, class Make>
void check_scales(const Make& make) {
  for (const double scale : {-0.5, -0.01, 0.0, 1e-30, 0.3, 1.0}) {
    RandomCase c = case_of_dimension(40, scale < 0);
    c.config.scale = scale;
    const auto maker = [&make](const ra::AttentionConfig& config) { return make(config); };
    check_both<Scalar>(c, std::vector{std::pair(std::string("scale"), maker)});
  }
}

template <class Scalar, class Make>
void check_not_a_number(const Make& make) {
  using Accumulator = ra::accumulator_t<Scalar>;
  ra::AttentionConfig config;
  config.segment_lengths = {100};
  config.dilation_rates = {1};
  config.scale = 1.0;
  const auto attention = make(config);
  auto in = random_inputs<Scalar>({1, 100, 1, 32}, 1);
  // Scores of +-1e4: query 3 sees key 7 alone, query 4 all keys but that one.
  for (std::int64_t d = 0; d < 32; ++d) {
    in.q(0, 3, 0, d) = Scalar(static_cast<float>(d == 0 ? 100 : 0));
    in.q(0, 4, 0, d) = Scalar(static_cast<float>(d == 0 ? -100 : 0));
    in.q(0, 5, 0, d) = Scalar(std::numeric_limits<float>::quiet_NaN());
  }
  for (std::int64_t key = 0; key < 100; ++key)
    in.k(0, key, 0, 0) = Scalar(static_cast<float>(key == 7 ? 100 : 0));
  const auto result = attention.forward_with_lse(in.q, in.k, in.v);
  CHECK(static_cast<double>(result.lse(0, 0, 3, 0)) == Approx(1e4));
  CHECK(static_cast<double>(result.lse(0, 0, 4, 0)) == Approx(std::log(99.0)).margin(1e-3));
  for (std::int64_t d = 0; d < 32; ++d) {
    CHECK(static_cast<double>(result.out(0, 3, 0, d)) == static_cast<double>(in.v(0, 7, 0, d)));
    CHECK(std::isnan(static_cast<double>(result.out(0, 5, 0, d))));
    CHECK(std::isfinite(static_cast<double>(result.out(0, 6, 0, d))));
  }
  CHECK(std::isnan(static_cast<double>(static_cast<Accumulator>(result.lse(0, 0, 5, 0)))));
}

/// Probabilities lie just below the middle of two bfloat16 or just above, where rounding takes most from
/// them, and their values have either sign: all that rounding takes adds up. Outputs are a fifth of the
/// values, for which the tolerance has the least room.
template <class Scalar, class Make>
void check_rounded_alike(const Make& make) {
  ra::AttentionConfig config;
  config.segment_lengths = {128};
  config.dilation_rates = {1};
  config.scale = 1.0;
  for (const float value : {1.0F, 5.0F, 6.5F, 8.0F, 20.0F}) {
    CallInputs<Scalar> in{ra::Tensor<Scalar>(1, 121, 1, 4), ra::Tensor<Scalar>(1, 121, 1, 4),
                          ra::Tensor<Scalar>(1, 121, 1, 4)};
    for (std::int64_t t = 0; t < 121; ++t) {
      const bool above = t % 5 < 3;
      const double probability = 0.5 * (1 + std::ldexp(1.0, -8) + std::ldexp(above ? 1.0 : -1.0, -11));
      // Query times key is the sum of two numbers; the first key is the maximum, and has value 0.
      const double score = t == 0 ? 0 : std::log(probability);
      in.q(0, t, 0, 0) = in.q(0, t, 0, 1) = Scalar(1.0F);
      in.k(0, t, 0, 0) = Scalar(static_cast<float>(score));
      in.k(0, t, 0, 1) = Scalar(static_cast<float>(score - to_double(in.k(0, t, 0, 0))));
      for (std::int64_t d = 0; d < 4; ++d) in.v(0, t, 0, d) = Scalar(t == 0 ? 0.0F : above ? -value : value);
    }
    INFO("values of " << value);
    const std::string failure = check_result(config, in, make(config).forward_with_lse(in.q, in.k, in.v));
    INFO(failure);
    CHECK(failure.empty());
  }
}

/// Values that are large, and gradients where few keys serve many queries.
template <class Scalar, class Make>
void check_large_numbers(const Make& make) {
  // Sums of large values cancel, so that references are far smaller than what is rounded.
  for (const float factor : {2.5F, 8.0F, 30.0F, 100.0F, 5000.0F}) {
    // Scores in float are too coarse for float's own tolerance there, whatever the kernel.
    if (factor >= 100.0F && std::is_same_v<Scalar, float>) continue;
    INFO("values times " << factor);
    ra::AttentionConfig config;
    config.segment_lengths = {64};
    config.dilation_rates = {1};
    auto in = random_inputs<Scalar>({1, 192, 4, 64}, 4);
    for (std::int64_t i = 0; i < in.v.size(); ++i) {
      in.v.data()[i] = static_cast<Scalar>(static_cast<float>(in.v.data()[i]) * factor);
    }
    const auto result = make(config).forward_with_lse(in.q, in.k, in.v);
    const std::string failure = check_result(config, in, result);
    INFO(failure);
    CHECK(failure.empty());
  }
  check_rounded_alike<Scalar>(make);
  RandomCase c;
  c.seed = 77;
  c.config.segment_lengths = {4096};
  c.config.dilation_rates = {2048};
  c.q = {1, 4096, 2, 16};
  c.k = {1, 4096, 2, 16};
  const std::string failure = check_backward<Scalar>(c, make(c.config));
  INFO(failure);
  CHECK(failure.empty());
}

}  // namespace test
