// Every attention class, forward and backward, against one computation of the oracle.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <ring_attention/attention/ring_dilated_attention_production.hpp>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <ring_attention/attention/true_ring_dilated_attention.hpp>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/check_backward.hpp"
#include "support/check_forward.hpp"
#include "support/distributed.hpp"
#include "support/random_case.hpp"

namespace test {

/// One case and what the oracle says about it.
template <class Scalar>
class ClassCheck {
  using Accumulator = ra::accumulator_t<Scalar>;

 public:
  explicit ClassCheck(const RandomCase& c)
      : case_(c),
        tensors_(c),
        grad_out_(c.q, c.out_layout, std::numeric_limits<Scalar>::quiet_NaN()),
        problem_(to_problem(c.config, c.q, c.k, c.lengths)),
        inputs_{without_nan(to_float64(tensors_.q.const_view())),
                without_nan(to_float64(tensors_.k.const_view())),
                without_nan(to_float64(tensors_.v.const_view()))},
        expected_(oracle::forward(problem_, inputs_)),
        tolerance_(tolerance_of<Scalar>(expected_.tolerance_factor())) {
    // A head with one branch has no mixing weight to differentiate.
    if (problem_.head_partition == oracle::HeadPartition::grouped || problem_.branches.size() == 1) {
      problem_.mix_gradient = oracle::MixGradient::exact;
    }
    Random random(c.seed ^ 0x5bd1e995);
    fill_valid_rows(grad_out_.view(), c.lengths, random);
    options_.lengths = c.lengths;
    if (c.seed % 2 == 1) {
      grad_lse_ = ra::Tensor<Accumulator>(c.q[0], c.q[2], c.q[1], 1);
      for (std::int64_t i = 0; i < grad_lse_.size(); ++i)
        grad_lse_.data()[i] = static_cast<Accumulator>(random.normal());
      options_.grad_lse = std::as_const(grad_lse_).view();
    }
  }

  /// Adds what is wrong with a class to the text.
  template <class Attention>
  void check(const char* name, const Attention& attention) {
    const ThreadScope threads(case_.threads);
    const auto q = tensors_.q.const_view(), k = tensors_.k.const_view(), v = tensors_.v.const_view();
    ra::AttentionResult<Scalar> result =
        attention.forward_with_lse(q, k, v, ra::ForwardOptions{.lengths = case_.lengths});
    std::string wrong = compare_rows<Scalar>(problem_, expected_, std::as_const(result.out).view(),
                                             std::as_const(result.lse).view(), tolerance_);
    Strided<Scalar> out(case_.q, case_.out_layout, Scalar(-1234.0F));
    Strided<Accumulator> lse({case_.q[0], case_.q[2], case_.q[1], 1}, case_.lse_layout, Accumulator(-1234));
    attention.forward(q, k, v, out.view(), lse.view(), ra::ForwardOptions{.lengths = case_.lengths});
    wrong += compare_rows<Scalar>(problem_, expected_, out.const_view(), lse.const_view(), tolerance_);
    if (!out.gaps_untouched()) wrong += "out: memory between its rows was written\n";
    if (!lse.gaps_untouched()) wrong += "lse: memory between its elements was written\n";

    if (!have_gradients_) {
      // The oracle follows the rounding of a 16-bit output, so that all classes are given the first one's.
      if (sizeof(Scalar) == 2) given_ = std::move(result);
      gradients_ = oracle::backward(
          problem_, inputs_, without_nan(to_float64(grad_out_.const_view())),
          std::vector<double>(grad_lse_.data(), grad_lse_.data() + grad_lse_.size()),
          sizeof(Scalar) == 2 ? to_float64(std::as_const(given_.out).view()) : std::vector<double>());
      have_gradients_ = true;
    }
    const auto& given = sizeof(Scalar) == 2 ? given_ : result;
    wrong += compare_gradients(attention.backward(q, k, v, given, grad_out_.const_view(), options_),
                               gradients_, tolerance_.gradient);
    if (!wrong.empty()) text_ += std::string(name) + ":\n" + wrong;
  }

  const std::string& text() const { return text_; }

 private:
  const RandomCase& case_;
  CallTensors<Scalar> tensors_;
  Strided<Scalar> grad_out_;
  ra::Tensor<Accumulator> grad_lse_;
  ra::BackwardOptions options_;
  oracle::Problem problem_;
  oracle::Inputs inputs_;
  oracle::Result expected_;
  Tolerance tolerance_;
  ra::AttentionResult<Scalar> given_;
  oracle::Gradients gradients_;
  bool have_gradients_ = false;
  std::string text_;
};

template <class Scalar>
void check_classes(std::uint64_t seed) {
  RandomCase c = make_random_case(seed, 2e6);
  c.config.ring_size = std::min<std::int64_t>(c.config.ring_size, 12);
  // Scores of many hundreds make dK ill-conditioned: the last bit of a log-sum-exp of 200 in a float is 1e-5
  // of every probability, times scale |dO| |V| |Q|. extreme_scores_test is about them.
  if (std::abs(c.config.scale.value_or(0)) * std::sqrt(static_cast<double>(c.q[3])) > 16)
    c.config.scale = 0.5;
  INFO("replay with RING_ATTENTION_TEST_SEED=" << seed << '\n' << c.describe());
  ClassCheck<Scalar> check(c);
  check.check("RingDilatedAttentionV2", ra::RingDilatedAttentionV2<Scalar>(c.config));
  check.check("RingDilatedAttentionProduction", ra::RingDilatedAttentionProduction<Scalar>(
                                                    c.config, ra::ProductionOptions{.check_finite = true}));
  check.check("TrueRingDilatedAttention", ra::TrueRingDilatedAttention<Scalar>(c.config));
  // A configuration may leave the number of members to the communicator.
  ra::AttentionConfig open = c.config;
  if (seed % 3 == 0) open.ring_size = 1;
  check.check("RingDistributedDilatedAttention",
              DistributedOnThreads<Scalar>(open, static_cast<int>(c.config.ring_size)));
  // In one scalar: a communicator changes nothing about the arithmetic, and costs compile time.
  if constexpr (std::is_same_v<Scalar, float>) {
    open.ring_size = 1;
    check.check("RingDistributedDilatedAttention over AloneCommunicator",
                Distributed<Scalar, OnOneThread>(open, OnOneThread()));
  }
  INFO(check.text());
  CHECK(check.text().empty());
}

/// Two cases of every combination of rules.
template <class Scalar>
void check_classes_of_type(std::uint64_t first_seed) {
  if (const char* replay = std::getenv("RING_ATTENTION_TEST_SEED")) {
    check_classes<Scalar>(std::strtoull(replay, nullptr, 10));
    return;
  }
  std::set<std::uint64_t> rules;
  for (std::uint64_t seed = first_seed; seed < first_seed + 2 * rule_combinations; ++seed) {
    rules.insert(rules_of(make_random_case(seed).config));
    check_classes<Scalar>(seed);
  }
  CHECK(rules.size() == rule_combinations);
}

}  // namespace test
