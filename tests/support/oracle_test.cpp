// The oracle: against reference outputs and gradients, hand-made cases, and central differences.
#include "support/oracle.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/compare.hpp"
#include "support/golden.hpp"
#include "support/oracle_adapter.hpp"
#include "support/oracle_backward.hpp"
#include "support/random.hpp"

namespace {

std::vector<double> normal_numbers(std::size_t count, test::Random& random) {
  std::vector<double> numbers(count);
  for (double& number : numbers) number = random.normal();
  return numbers;
}

oracle::Inputs random_inputs(const oracle::Problem& p, test::Random& random) {
  return {normal_numbers(p.query_size(), random), normal_numbers(p.key_size(), random),
          normal_numbers(p.key_size(), random)};
}

/// sum(grad_out * out) + sum(grad_lse * lse). With `fixed` results the mixing weights are taken from them, so
/// that only out_i and lse move: the function whose gradient MixGradient::detached is.
double loss(const oracle::Problem& p, const oracle::Inputs& in, const std::vector<double>& grad_out,
            const std::vector<double>& grad_lse, const oracle::Inputs* fixed) {
  double sum = 0;
  for (std::int64_t b = 0; b < p.batches; ++b) {
    for (std::int64_t head = 0; head < p.heads; ++head) {
      for (std::int64_t t = 0; t < p.length(b); ++t) {
        const oracle::Row row = oracle::attend_row(p, in, b, head, t);
        if (row.branches.empty()) continue;
        sum += row.lse * grad_lse[static_cast<std::size_t>((b * p.heads + head) * p.tokens + t)];
        const auto weights =
            fixed != nullptr ? oracle::attend_row(p, *fixed, b, head, t).weights : row.weights;
        for (std::size_t i = 0; i < row.branches.size(); ++i) {
          for (std::size_t c = 0; c < row.out.size(); ++c) {
            sum += weights[i] * row.branches[i].out[c] * grad_out[p.query_row(b, t, head) + c];
          }
        }
      }
    }
  }
  return sum;
}

}  // namespace

TEST_CASE("oracle: agrees with the reference outputs and gradients", "[oracle][golden]") {
  for (const std::string& name : test::golden_names()) {
    const test::Golden golden = test::load_golden(name);
    const oracle::Problem p = test::to_problem(golden.config, golden["q"].shape(), golden["k"].shape());
    const oracle::Inputs in = test::to_inputs(golden["q"].view(), golden["k"].view(), golden["v"].view());
    const auto same = [&](const std::string& what, const std::vector<double>& actual, double tolerance) {
      const auto comparison =
          test::compare_all(name + " " + what, actual, test::to_float64(golden[what].view()), tolerance);
      INFO(comparison.message());
      CHECK(comparison.passed());
    };
    same("out", oracle::forward(p, in).out, 1e-6);
    const oracle::Gradients grad = oracle::backward(p, in, test::to_float64(golden["grad_out"].view()));
    same("grad_q", grad.q, 1e-6);
    same("grad_k", grad.k, 1e-6);
    same("grad_v", grad.v, 1e-6);
  }
}

TEST_CASE("oracle: heads are divided over branches, the remainder to the last", "[oracle]") {
  oracle::Problem p;
  const auto branch_of_each_head = [&p](std::int64_t heads, std::size_t branches) {
    p.heads = heads;
    p.branches.assign(branches, {});
    std::vector<std::int64_t> owner;
    for (std::int64_t head = 0; head < heads; ++head) {
      for (std::int64_t i = 0; i < static_cast<std::int64_t>(branches); ++i) {
        if (oracle::head_runs_branch(p, head, i)) owner.push_back(i);
      }
    }
    return owner;
  };
  using List = std::vector<std::int64_t>;
  CHECK(branch_of_each_head(6, 3) == List{0, 0, 1, 1, 2, 2});
  CHECK(branch_of_each_head(8, 3) == List{0, 0, 1, 1, 1, 2, 2, 2});
  CHECK(branch_of_each_head(7, 3) == List{0, 0, 1, 1, 2, 2, 2});
  CHECK(branch_of_each_head(2, 4) == List{2, 3});
}

TEST_CASE("oracle: offsets by branch, by head and by block of heads", "[oracle]") {
  oracle::Problem p;
  p.heads = 6;
  p.branches = {{8, 4}, {8, 4}, {8, 4}, {8, 4}, {8, 4}};
  const auto offsets = [&p](oracle::OffsetRule rule) {
    p.offset_rule = rule;
    std::vector<std::int64_t> list;
    for (std::int64_t head = 0; head < p.heads; ++head) list.push_back(oracle::offset_of(p, head, 4));
    return list;
  };
  using List = std::vector<std::int64_t>;
  CHECK(offsets(oracle::OffsetRule::by_branch) == List{0, 0, 0, 0, 0, 0});
  CHECK(offsets(oracle::OffsetRule::by_head) == List{0, 1, 2, 3, 0, 1});
  CHECK(offsets(oracle::OffsetRule::by_head_block) == List{0, 0, 1, 1, 2, 2});
  p.offset_rule = oracle::OffsetRule::by_branch;
  CHECK(oracle::offset_of(p, 0, 3) == 3);
}

TEST_CASE("oracle: visible keys of a hand-made case", "[oracle]") {
  oracle::Problem p;
  p.tokens = 11;
  p.branches = {{4, 3}, {100, 5}};
  p.head_partition = oracle::HeadPartition::shared;
  p.padding_rule = oracle::PaddingRule::zero_attended;
  using List = std::vector<std::int64_t>;
  // Branch 0 keeps 0, 3 | 4, 7 | 8; segments of 4 padded to 6 rows have 2 kept ones, so the last has one zero
  // key.
  CHECK(oracle::visible_keys(p, 0, 0, 0, 5).tokens == List{4, 7});
  CHECK(oracle::visible_keys(p, 0, 0, 0, 5).zeros == 0);
  CHECK(oracle::visible_keys(p, 0, 0, 0, 10).tokens == List{8});
  CHECK(oracle::visible_keys(p, 0, 0, 0, 10).zeros == 1);
  // Branch 1 is clipped to 11 tokens, offset 1: 1 and 6, of ceil(11 / 5) = 3 rows.
  CHECK(oracle::visible_keys(p, 0, 0, 1, 0).tokens == List{1, 6});
  CHECK(oracle::visible_keys(p, 0, 0, 1, 0).zeros == 1);
  // An item of 5 tokens is alone with n = 5: 1, of ceil(5 / 5) = 1 row.
  p.lengths = {5};
  CHECK(oracle::visible_keys(p, 0, 0, 1, 0).tokens == List{1});
  CHECK(oracle::visible_keys(p, 0, 0, 1, 0).zeros == 0);
  CHECK(oracle::visible_keys(p, 0, 0, 1, 5).empty());
  p.lengths = {};
  p.causal = true;
  CHECK(oracle::visible_keys(p, 0, 0, 0, 5).tokens == List{4});
  CHECK(oracle::visible_keys(p, 0, 0, 1, 0).empty());
  p.query_rule = oracle::QueryRule::dilated;
  CHECK(oracle::visible_keys(p, 0, 0, 0, 5).empty());
  CHECK(oracle::visible_keys(p, 0, 0, 0, 7).tokens == List{4, 7});
}

TEST_CASE("oracle: values of a hand-made case", "[oracle]") {
  oracle::Problem p;
  p.tokens = 3;
  p.branches = {{3, 2}};
  const oracle::Inputs in{{1, 2, 0}, {std::log(2.0), 7, -std::log(3.0)}, {10, 100, 20}};
  // Keys 0 and 2: exp(score) is 2 and 1/3 for the first query, 4 and 1/9 for the second, 1 and 1 for the
  // third.
  auto result = oracle::forward(p, in);
  CHECK(test::compare_all("out", result.out, {80.0 / 7, 380.0 / 37, 15}, 1e-14).passed());
  CHECK(test::compare_all("lse", result.lse, {std::log(7.0 / 3), std::log(37.0 / 9), std::log(2.0)}, 1e-14)
            .passed());
  CHECK(result.largest_score == 2 * std::log(3.0));
  CHECK(result.values == std::vector<double>{20, 20, 20});  // key 1, which is not kept, has 100
  CHECK(result.tolerance_factor() == 1);
  p.scale = 1000;
  CHECK(std::abs(oracle::forward(p, in, {1}).tolerance_factor() - 20 * std::log(3.0)) < 1e-12);
  // Offset 1 keeps only token 1 of ceil(3 / 2) = 2 rows: one zero key joins it.
  p.scale = 1;
  p.offset_rule = oracle::OffsetRule::by_head;
  p.heads = 2;
  p.padding_rule = oracle::PaddingRule::zero_attended;
  const oracle::Inputs two_heads{{0, 0, 0, 0, 0, 0}, in.k, in.v};
  result = oracle::forward(p, two_heads);
  CHECK(test::compare_all("out", result.out, {15, 50, 15, 50, 15, 50}, 1e-14).passed());
  CHECK(result.values == std::vector<double>{20, 100, 20, 100, 20, 100});
  p.causal = true;
  const oracle::Inputs negative{two_heads.q, in.k, {-10, 100, 20}};
  CHECK(oracle::forward(p, negative, {0, 2}).values == std::vector<double>{10, 0, 20, 100});
}

TEST_CASE("oracle: sampled rows equal the rows of the whole", "[oracle]") {
  test::Random random(7);
  oracle::Problem p;
  p.batches = 2;
  p.tokens = 23;
  p.heads = 4;
  p.kv_heads = 2;
  p.dim = 3;
  p.branches = {{7, 2}, {23, 3}};
  p.head_partition = oracle::HeadPartition::shared;
  p.lengths = {23, 17};
  const oracle::Inputs in = random_inputs(p, random);
  const oracle::Result whole = oracle::forward(p, in);
  const oracle::Result sample = oracle::forward(p, in, {22, 0, 16});
  for (std::size_t b = 0; b < 2; ++b) {
    for (std::size_t head = 0; head < 4; ++head) {
      for (std::size_t i = 0; i < sample.rows.size(); ++i) {
        const auto t = static_cast<std::size_t>(sample.rows[i]);
        CHECK(sample.lse[(b * 4 + head) * 3 + i] == whole.lse[(b * 4 + head) * 23 + t]);
        CHECK(sample.out[((b * 3 + i) * 4 + head) * 3 + 1] == whole.out[((b * 23 + t) * 4 + head) * 3 + 1]);
      }
    }
  }
  CHECK(whole.out[((1 * 23 + 17) * 4 + 0) * 3] == 0);
  CHECK(whole.lse[(1 * 4 + 0) * 23 + 17] == oracle::negative_infinity);
}

TEST_CASE("oracle: gradients equal central differences", "[oracle]") {
  for (std::uint64_t seed = 0; seed < 48; ++seed) {
    test::Random random(seed);
    oracle::Problem p;
    p.batches = 2;
    p.tokens = random.integer(3, 9);
    p.heads = 4;
    p.kv_heads = random.pick({1, 2, 4});
    p.dim = random.integer(1, 3);
    const std::int64_t branches = random.integer(1, 3);
    for (std::int64_t i = 0; i < branches; ++i) {
      p.branches.push_back({random.integer(1, 10), random.integer(1, 3)});
    }
    p.scale = random.pick({0.7, -0.4});
    p.causal = seed % 2 == 1;
    p.head_partition = oracle::HeadPartition::shared;
    if (seed % 8 == 7) p.head_partition = oracle::HeadPartition::grouped;
    p.offset_rule = static_cast<oracle::OffsetRule>(seed / 2 % 3);
    p.query_rule = static_cast<oracle::QueryRule>(seed / 6 % 2);
    p.padding_rule = static_cast<oracle::PaddingRule>(seed / 12 % 2);
    p.mix_gradient = static_cast<oracle::MixGradient>(seed / 24 % 2);
    p.lengths = {p.tokens, random.integer(0, p.tokens)};
    const oracle::Inputs in = random_inputs(p, random);
    const auto grad_out = normal_numbers(p.query_size(), random);
    const auto grad_lse = normal_numbers(static_cast<std::size_t>(p.batches * p.heads * p.tokens), random);
    const oracle::Gradients grad = oracle::backward(p, in, grad_out, grad_lse);

    const oracle::Inputs* fixed = p.mix_gradient == oracle::MixGradient::detached ? &in : nullptr;
    oracle::Inputs moved = in;
    const auto check = [&](const char* name, std::vector<double>& input,
                           const std::vector<double>& gradient) {
      std::vector<double> differences;
      constexpr double step = 1e-5;
      for (double& element : input) {
        const double value = element;
        element = value + step;
        const double above = loss(p, moved, grad_out, grad_lse, fixed);
        element = value - step;
        const double below = loss(p, moved, grad_out, grad_lse, fixed);
        element = value;
        differences.push_back((above - below) / (2 * step));
      }
      const auto comparison = test::compare_all(name, gradient, differences, 2e-8);
      INFO("seed " << seed << ": " << comparison.message());
      CHECK(comparison.passed());
    };
    check("dQ", moved.q, grad.q);
    check("dK", moved.k, grad.k);
    check("dV", moved.v, grad.v);
  }
}
