// Forward calls checked against the oracle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <ring_attention/options.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/scalar.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/compare.hpp"
#include "support/oracle.hpp"
#include "support/oracle_adapter.hpp"
#include "support/random.hpp"
#include "support/random_case.hpp"
#include "support/strided.hpp"
#include "support/tensors.hpp"

namespace test {

/// Sets the number of threads for a scope.
class ThreadScope {
 public:
  explicit ThreadScope(int threads) : before_(ra::num_threads()) { ra::set_num_threads(threads); }
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;
  ~ThreadScope() { ra::set_num_threads(before_); }

 private:
  int before_;
};

/// Fills valid rows with normal numbers; rows past an item's length keep the filler of the memory.
template <class T>
void fill_valid_rows(const ra::TensorView<T>& view, const std::vector<std::int64_t>& lengths,
                     Random& random) {
  const auto [batches, tokens, heads, dim] = view.shape();
  for (std::int64_t b = 0; b < batches; ++b) {
    const std::int64_t valid = lengths.empty() ? tokens : lengths[static_cast<std::size_t>(b)];
    for (std::int64_t t = 0; t < valid; ++t) {
      for (std::int64_t head = 0; head < heads; ++head) {
        for (std::int64_t c = 0; c < dim; ++c) view(b, t, head, c) = T(static_cast<float>(random.normal()));
      }
    }
  }
}

/// Memory of one call. Whatever must not be read is NaN; whatever is written starts as a number of no
/// meaning.
template <class Scalar>
struct CallTensors {
  using Accumulator = ra::accumulator_t<Scalar>;

  explicit CallTensors(const RandomCase& c)
      : q(c.q, c.q_layout, std::numeric_limits<Scalar>::quiet_NaN()),
        k(c.k, c.k_layout, std::numeric_limits<Scalar>::quiet_NaN()),
        v(c.k, c.v_layout, std::numeric_limits<Scalar>::quiet_NaN()),
        out(c.q, c.out_layout, Scalar(-1234.0F)),
        lse({c.q[0], c.q[2], c.q[1], 1}, c.lse_layout, Accumulator(-1234)) {
    Random random(~c.seed);
    fill_valid_rows(q.view(), c.lengths, random);
    fill_valid_rows(k.view(), c.lengths, random);
    fill_valid_rows(v.view(), c.lengths, random);
  }

  Strided<Scalar> q, k, v, out;
  Strided<Accumulator> lse;
};

/// Empty where out and lse agree with the oracle in the rows that it computed, else what differs.
template <class Scalar>
std::string compare_rows(const oracle::Problem& problem, const oracle::Result& expected,
                         const ra::TensorView<const Scalar>& out,
                         const ra::TensorView<const ra::accumulator_t<Scalar>>& lse,
                         const Tolerance& tolerance) {
  Comparison outs("out", tolerance.out);
  Comparison sums("lse", tolerance.lse);
  auto expected_out = expected.out.begin();
  auto largest_value = expected.values.begin();
  for (std::int64_t b = 0; b < problem.batches; ++b) {
    for (const std::int64_t t : expected.rows) {
      for (std::int64_t head = 0; head < problem.heads; ++head) {
        const double size = output_size<Scalar>(*largest_value++);
        for (std::int64_t c = 0; c < problem.dim; ++c) {
          outs.add(out(b, t, head, c), *expected_out++, {b, t, head, c}, size);
        }
      }
    }
  }
  auto expected_lse = expected.lse.begin();
  for (std::int64_t b = 0; b < problem.batches; ++b) {
    for (std::int64_t head = 0; head < problem.heads; ++head) {
      for (const std::int64_t t : expected.rows) {
        sums.add(lse(b, head, t, 0), *expected_lse++, {b, head, t, 0});
      }
    }
  }
  std::string text;
  if (!outs.passed()) text += outs.message() + '\n';
  if (!sums.passed()) text += sums.message() + '\n';
  return text;
}

/// Runs `attend(q, k, v, out, lse, options)`; empty where everything is right, else what is wrong. Compares
/// all rows, or those given.
template <class Scalar, class Attend>
std::string check_forward(const RandomCase& c, const Attend& attend, std::vector<std::int64_t> rows = {}) {
  const ThreadScope threads(c.threads);
  const CallTensors<Scalar> tensors(c);
  attend(tensors.q.const_view(), tensors.k.const_view(), tensors.v.const_view(), tensors.out.view(),
         tensors.lse.view(), ra::ForwardOptions{.lengths = c.lengths});
  if (rows.empty()) {
    rows.resize(static_cast<std::size_t>(c.q[1]));
    std::iota(rows.begin(), rows.end(), std::int64_t{0});
  }
  const oracle::Problem problem = to_problem(c.config, c.q, c.k, c.lengths);
  const oracle::Inputs inputs =
      to_inputs(tensors.q.const_view(), tensors.k.const_view(), tensors.v.const_view());
  const oracle::Result expected = oracle::forward(problem, inputs, std::move(rows));
  std::string text =
      compare_rows<Scalar>(problem, expected, tensors.out.const_view(), tensors.lse.const_view(),
                           tolerance_of<Scalar>(expected.tolerance_factor()));
  if (!tensors.out.gaps_untouched()) text += "out: memory between its rows was written\n";
  if (!tensors.lse.gaps_untouched()) text += "lse: memory between its elements was written\n";
  return text;
}

/// Empty where a result in whole tensors agrees with the oracle, else what differs. `factor` replaces the one
/// that the largest score would give.
template <class Scalar>
std::string check_result(const ra::AttentionConfig& config, const CallInputs<Scalar>& in,
                         const ra::AttentionResult<Scalar>& result, const ra::ForwardOptions& options = {},
                         std::optional<double> factor = {}) {
  if (result.out.shape() != in.q.shape()) return "out has shape " + ra::to_string(result.out.shape()) + '\n';
  const auto [b, n, h, d] = in.q.shape();
  if (result.lse.shape() != ra::Shape{b, h, n, 1}) {
    return "lse has shape " + ra::to_string(result.lse.shape()) + '\n';
  }
  const oracle::Problem problem = to_problem(config, in.q.shape(), in.k.shape(), options.lengths);
  const oracle::Result expected = oracle::forward(problem, to_inputs(in.q.view(), in.k.view(), in.v.view()));
  return compare_rows<Scalar>(problem, expected, result.out.view(), result.lse.view(),
                              tolerance_of<Scalar>(factor.value_or(expected.tolerance_factor())));
}

}  // namespace test
