// The evaluation that mpi_ring checks itself with, against the tests' oracle.
#include "examples/support/direct_row.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <set>
#include <vector>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/oracle_adapter.hpp"
#include "support/random_case.hpp"

namespace {

namespace ra = ring_attention;

std::vector<double> whole_tensor(examples::Operand operand, const ra::Shape& shape) {
  ra::Tensor<float> tensor(shape);
  for (std::int64_t token = 0; token < shape[1]; ++token) {
    for (std::int64_t head = 0; head < shape[2]; ++head) {
      examples::fill_counter_row(operand, token, head, shape[3], tensor.view().row(0, token, head));
    }
  }
  return test::to_float64<float>(tensor.view());
}

}  // namespace

TEST_CASE("a directly evaluated row is the oracle's", "[examples]") {
  for (std::uint64_t rules = 0; rules < test::rule_combinations; ++rules) {
    ra::AttentionConfig config;
    test::set_rules(config, rules);
    config.padding_rule = ra::PaddingRule::masked;
    config.segment_lengths = {7, 24, 100};
    config.dilation_rates = {1, 3, 4};
    const ra::Shape shape{1, 61, 5, 6};
    const oracle::Inputs inputs{whole_tensor(examples::Operand::query, shape),
                                whole_tensor(examples::Operand::key, shape),
                                whole_tensor(examples::Operand::value, shape)};
    const oracle::Problem problem = test::to_problem(config, shape, shape);
    const examples::DirectRow direct(config, shape[1], shape[2], shape[3]);
    INFO("rules " << rules);
    for (std::int64_t token = 0; token < shape[1]; ++token) {
      for (std::int64_t head = 0; head < shape[2]; ++head) {
        const std::vector<double> expected = oracle::attend_row(problem, inputs, 0, head, token).out;
        const std::vector<double> row = direct(token, head);
        REQUIRE(row.size() == expected.size());
        for (std::size_t c = 0; c < row.size(); ++c) REQUIRE(std::abs(row[c] - expected[c]) <= 1e-12);
      }
    }
  }
}

TEST_CASE("counter rows differ, have mean 0 and variance 1, and depend on their place alone", "[examples]") {
  std::set<float> firsts;
  double sum = 0.0, squares = 0.0;
  std::vector<float> row(32), again(32);
  for (const auto operand : {examples::Operand::query, examples::Operand::key, examples::Operand::value}) {
    for (std::int64_t token = 0; token < 100; ++token) {
      for (std::int64_t head = 0; head < 4; ++head) {
        examples::fill_counter_row(operand, token, head, 32, row.data());
        examples::fill_counter_row(operand, token, head, 32, again.data());
        CHECK(row == again);
        firsts.insert(row[0]);
        for (const float x : row) {
          sum += static_cast<double>(x);
          squares += static_cast<double>(x) * static_cast<double>(x);
        }
      }
    }
  }
  CHECK(firsts.size() >= 1199);  // of 1,200 draws out of 2^24 two may be equal
  CHECK(std::abs(sum / 38400) < 0.03);
  CHECK(std::abs(squares / 38400 - 1.0) < 0.03);
}
