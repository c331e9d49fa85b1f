// unit: blocks
// Block-sparse attention beyond random cases: cache policies, errors, probabilities, edges.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ring_attention/attention/block_sparse_ring_dilated_attention.hpp>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <string>
#include <thread>
#include <vector>

#include "support/block_case.hpp"
#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/compare.hpp"
#include "support/error_text.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

ra::AttentionConfig make_config(bool causal) {
  ra::AttentionConfig config;
  config.segment_lengths = {64};
  config.dilation_rates = {1};
  config.causal = causal;
  return config;
}

const std::vector<ra::BlockSparseConfig>& configs() {
  static const std::vector<ra::BlockSparseConfig> all{
      {.pattern = ra::BlockPattern::local_window, .block_size = 16, .window = 40},
      {.pattern = ra::BlockPattern::dilated_sparse, .block_size = 8, .window = 16, .dilation_rates = {1, 3}},
      {.pattern = ra::BlockPattern::global_local, .block_size = 32, .window = 20, .global_tokens = 33},
      {.pattern = ra::BlockPattern::custom,
       .block_size = 50,
       .blocks = {{3, 0}, {0, 0}, {1, 3}, {3, 3}, {3, 2}}}};
  return all;
}

/// Looks patterns up in a cache and keeps what it found.
class recording_policy {
 public:
  explicit recording_policy(std::vector<ra::PatternCache::Pattern>& found) : found_(&found) {}
  ra::PatternCache::Pattern dilated_indices(const ra::PatternKey& key) const {
    found_->push_back(ra::use_pattern_cache().dilated_indices(key));
    return found_->back();
  }

 private:
  std::vector<ra::PatternCache::Pattern>* found_;
};

template <class Scalar>
bool same(const ra::Gradients<Scalar>& a, const ra::Gradients<Scalar>& b) {
  return test::bitwise_equal(a.q, b.q) && test::bitwise_equal(a.k, b.k) && test::bitwise_equal(a.v, b.v);
}

template <class Scalar>
bool same(const ra::AttentionResult<Scalar>& a, const ra::AttentionResult<Scalar>& b) {
  return test::bitwise_equal(a.out, b.out) && test::bitwise_equal(a.lse, b.lse);
}

}  // namespace

TEMPLATE_TEST_CASE("Block-sparse: cache policies and calls give equal bits", "[attention][block_sparse]",
                   float, Eigen::bfloat16) {
  const auto in = test::random_inputs<TestType>({2, 170, 4, 24}, 2);
  const auto grad_out = test::random_tensor<TestType>({2, 170, 4, 24}, 9);
  const test::ThreadScope threads(3);
  for (const bool causal : {false, true}) {
    for (const ra::BlockSparseConfig& sparse : configs()) {
      const ra::BlockSparseRingDilatedAttention<TestType> global(make_config(causal), sparse);
      const ra::BlockSparseRingDilatedAttention<TestType, ra::use_local_cache> local(make_config(causal),
                                                                                     sparse);
      const ra::BlockSparseRingDilatedAttention<TestType, ra::use_no_cache> none(make_config(causal), sparse);
      const auto result = global.forward_with_lse(in.q, in.k, in.v);
      const auto grads = global.backward(in.q, in.k, in.v, result, grad_out);
      CHECK(same(result, global.forward_with_lse(in.q, in.k, in.v)));
      CHECK(same(result, local.forward_with_lse(in.q, in.k, in.v)));
      CHECK(same(result, none.forward_with_lse(in.q, in.k, in.v)));
      CHECK(same(grads, global.backward(in.q, in.k, in.v, result, grad_out)));
      CHECK(same(grads, local.backward(in.q, in.k, in.v, result, grad_out)));
      CHECK(same(grads, none.backward(in.q, in.k, in.v, result, grad_out)));
      CHECK(test::bitwise_equal(result.out, global.forward(in.q, in.k, in.v)));
      ra::Tensor<TestType> out(in.q.shape());
      global.forward(in.q, in.k, in.v, out);
      CHECK(test::bitwise_equal(result.out, out));
    }
  }
}

TEST_CASE("Block-sparse: objects whose lists are equal share one pattern", "[attention][block_sparse]") {
  ra::clear_pattern_cache();
  const auto in = test::random_inputs<float>({1, 200, 2, 8}, 2);
  const auto shorter = test::random_inputs<float>({1, 197, 2, 8}, 2);
  for (const ra::BlockSparseConfig& sparse : configs()) {
    std::vector<ra::PatternCache::Pattern> found;
    const recording_policy policy(found);
    const ra::BlockSparseRingDilatedAttention<float, recording_policy> first(make_config(true), sparse,
                                                                             policy);
    const ra::BlockSparseRingDilatedAttention<float, recording_policy> second(make_config(true), sparse,
                                                                              policy);
    (void)first.forward(in.q, in.k, in.v);
    (void)second.forward(in.q, in.k, in.v);
    const auto result = second.forward_with_lse(in.q, in.k, in.v);
    (void)second.backward(in.q, in.k, in.v, result, in.q);
    (void)first.forward(shorter.q, shorter.k, shorter.v);  // as many blocks
    REQUIRE(found.size() == 5);
    for (const auto& pattern : found) CHECK(pattern == found.front());
  }
  CHECK(ra::get_global_pattern_cache().stats().entries == configs().size());
}

TEST_CASE("Block-sparse: one dense list is dilated attention without dilation", "[attention][block_sparse]") {
  ra::AttentionConfig config = make_config(true);
  config.segment_lengths = {300};
  const auto in = test::random_inputs<double>({1, 300, 4, 16}, 1);
  const auto dense = ra::RingDilatedAttentionV2<double>(config).forward_with_lse(in.q, in.k, in.v);
  for (const std::int64_t block_size : {1, 7, 64, 300, 4096}) {
    const ra::BlockSparseRingDilatedAttention<double> sparse(
        config,
        ra::BlockSparseConfig{.block_size = block_size, .window = std::numeric_limits<std::int64_t>::max()});
    const auto result = sparse.forward_with_lse(in.q, in.k, in.v);
    const auto outs = test::compare_all("out", test::to_float64(result.out.view()),
                                        test::to_float64(dense.out.view()), 1e-12);
    INFO(outs.message());
    CHECK(outs.passed());
  }
}

TEST_CASE("Block-sparse: duplicates count once and hidden blocks are dropped", "[attention][block_sparse]") {
  using Attention = ra::BlockSparseRingDilatedAttention<float>;
  const auto in = test::random_inputs<float>({1, 40, 2, 8}, 1);
  const auto run = [&](bool causal, std::vector<ra::BlockPair> blocks) {
    return Attention(make_config(causal),
                     ra::BlockSparseConfig{
                         .pattern = ra::BlockPattern::custom, .block_size = 16, .blocks = std::move(blocks)})
        .forward_with_lse(in.q, in.k, in.v);
  };
  for (const bool causal : {false, true}) {
    CHECK(same(run(causal, {{2, 0}, {1, 1}, {2, 2}}), run(causal, {{2, 2}, {2, 0}, {1, 1}, {2, 0}, {1, 1}})));
  }
  CHECK(same(run(true, {{1, 1}, {0, 2}, {1, 2}}), run(true, {{1, 1}})));
  const auto result = run(false, {{1, 0}});
  for (const std::int64_t token : {0, 15, 32, 39}) {  // blocks without a list
    CHECK(result.lse(0, 1, token, 0) == -std::numeric_limits<float>::infinity());
    for (std::int64_t d = 0; d < 8; ++d) CHECK(result.out(0, token, 1, d) == 0.0F);
  }
  const auto grads = Attention(make_config(false),
                               ra::BlockSparseConfig{
                                   .pattern = ra::BlockPattern::custom, .block_size = 16, .blocks = {{1, 0}}})
                         .backward(in.q, in.k, in.v, result, in.q);
  for (std::int64_t d = 0; d < 8; ++d) {
    CHECK(grads.q(0, 0, 1, d) == 0.0F);
    CHECK(grads.k(0, 16, 0, d) == 0.0F);
    CHECK(grads.v(0, 39, 0, d) == 0.0F);
  }
}

TEST_CASE("Block-sparse: rows outside the lists are never read", "[attention][block_sparse]") {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  auto in = test::random_inputs<float>({1, 64, 1, 8}, 1);
  for (std::int64_t token = 16; token < 48; ++token) {
    for (std::int64_t d = 0; d < 8; ++d) in.k(0, token, 0, d) = in.v(0, token, 0, d) = nan;
  }
  const ra::BlockSparseRingDilatedAttention<float> attention(
      make_config(false), ra::BlockSparseConfig{.pattern = ra::BlockPattern::custom,
                                                .block_size = 16,
                                                .blocks = {{0, 0}, {0, 3}, {1, 3}, {2, 0}, {3, 3}}});
  const auto result = attention.forward_with_lse(in.q, in.k, in.v);
  const auto grads = attention.backward(in.q, in.k, in.v, result, result.out);
  const auto finite = [](const ra::Tensor<float>& tensor) {
    return std::all_of(tensor.data(), tensor.data() + tensor.size(), [](float x) { return x - x == 0.0F; });
  };
  CHECK(finite(result.out));
  CHECK(finite(result.lse));
  CHECK(finite(grads.q));
  CHECK(finite(grads.k));
  CHECK(finite(grads.v));
}

TEMPLATE_TEST_CASE("Block-sparse: probabilities of active blocks", "[attention][block_sparse]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  const std::vector<std::int64_t> lengths{103, 58};
  const auto in = test::random_inputs<TestType>({2, 103, 4, 40}, 2);
  for (const bool causal : {false, true}) {
    for (ra::BlockSparseConfig sparse : configs()) {
      test::RandomCase call;
      call.config = make_config(causal);
      call.q = in.q.shape();
      call.k = in.k.shape();
      call.lengths = lengths;
      if (!sparse.blocks.empty()) sparse.block_size = 30;
      const ra::BlockSparseRingDilatedAttention<TestType> attention(call.config, sparse);
      const auto with = attention.forward_with_probabilities(in.q, in.k, in.v, {.lengths = lengths});
      CHECK(same(with.result, attention.forward_with_lse(in.q, in.k, in.v, {.lengths = lengths})));

      const oracle::BlockProblem problem = test::to_block_problem(call, sparse);
      const oracle::Inputs inputs = test::to_inputs(in.q.view(), in.k.view(), in.v.view());
      const double tolerance = test::tolerance_of<ra::accumulator_t<TestType>>().out;
      const std::int64_t size = with.probabilities.block_size;
      REQUIRE(size == sparse.block_size);
      // Entries of the oracle's matrix that blocks cover; rows then hold all there is.
      test::Comparison values("probability", tolerance);
      test::Comparison sums("sum of a row", tolerance);
      std::size_t next = 0;
      for (std::int64_t item = 0; item < 2; ++item) {
        const std::int64_t length = lengths[static_cast<std::size_t>(item)];
        const std::int64_t blocks = (length + size - 1) / size;
        for (std::int64_t head = 0; head < 4; ++head) {
          for (std::int64_t i = 0; i < blocks; ++i) {
            std::vector<double> row_sums(static_cast<std::size_t>(size));
            bool any = false;
            for (std::int64_t j = 0; j < blocks; ++j) {
              if (!oracle::active(problem, i, j) || (causal && j > i)) continue;
              any = true;
              REQUIRE(next < with.probabilities.coordinates.size());
              CHECK(with.probabilities.coordinates[next] == ra::BlockCoordinate{item, head, i, j});
              for (std::int64_t row = 0; row < size; ++row) {
                const oracle::BlockRow expected =
                    oracle::attend_block_row(problem, inputs, item, head, i * size + row);
                for (std::int64_t column = 0; column < size; ++column) {
                  const auto at =
                      std::find(expected.tokens.begin(), expected.tokens.end(), j * size + column);
                  const auto actual =
                      with.probabilities.values(static_cast<std::int64_t>(next), row, 0, column);
                  const double reference =
                      at == expected.tokens.end()
                          ? 0.0
                          : expected.probabilities[static_cast<std::size_t>(at - expected.tokens.begin())];
                  values.add(actual, reference, {static_cast<std::int64_t>(next), row, 0, column});
                  row_sums[static_cast<std::size_t>(row)] += static_cast<double>(actual);
                }
              }
              ++next;
            }
            for (std::int64_t row = 0; any && row < size; ++row) {
              const bool valid = i * size + row < length;
              sums.add(row_sums[static_cast<std::size_t>(row)], valid ? 1.0 : 0.0, {item, i, head, row});
            }
          }
        }
      }
      CHECK(next == with.probabilities.coordinates.size());
      CHECK(with.probabilities.values.shape() == ra::Shape{static_cast<std::int64_t>(next), size, 1, size});
      INFO(values.message() << '\n' << sums.message());
      CHECK(values.passed());
      CHECK(sums.passed());
      CHECK(sums.count() > 0);
    }
  }
}

TEST_CASE("Block-sparse: empty calls return empty results", "[attention][block_sparse]") {
  for (const ra::BlockSparseConfig& sparse : configs()) {
    const ra::BlockSparseRingDilatedAttention<float> attention(make_config(true), sparse);
    for (const ra::Shape& shape : {ra::Shape{0, 200, 2, 8}, ra::Shape{2, 0, 2, 8}}) {
      const ra::Tensor<float> empty(shape);
      const auto with = attention.forward_with_probabilities(empty, empty, empty);
      CHECK(with.result.out.shape() == shape);
      CHECK(with.probabilities.coordinates.empty());
      CHECK(attention.backward(empty, empty, empty, with.result, empty).k.shape() == shape);
    }
  }
}

TEST_CASE("Block-sparse: one object serves many threads at once", "[attention][block_sparse]") {
  const auto in = test::random_inputs<float>({1, 170, 4, 8}, 2);
  for (const ra::BlockSparseConfig& sparse : configs()) {
    const ra::BlockSparseRingDilatedAttention<float, ra::use_local_cache> attention(make_config(true),
                                                                                    sparse);
    const test::ThreadScope scope(3);
    const auto expected = ra::BlockSparseRingDilatedAttention<float>(make_config(true), sparse)
                              .forward_with_lse(in.q, in.k, in.v);
    const auto expected_grads = attention.backward(in.q, in.k, in.v, expected, in.q);
    std::array<int, 6> wrong{};
    std::vector<std::thread> threads;
    for (int& count : wrong) {
      threads.emplace_back([&in, &attention, &expected, &expected_grads, &count] {
        const auto result = attention.forward_with_lse(in.q, in.k, in.v);
        if (!same(result, expected)) ++count;
        if (!same(attention.backward(in.q, in.k, in.v, result, in.q), expected_grads)) ++count;
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == std::array<int, 6>{});
  }
}

TEST_CASE("Block-sparse: errors name the argument, its value and the rule", "[attention][block_sparse]") {
  using Attention = ra::BlockSparseRingDilatedAttention<float>;
  const auto construct = [](const ra::BlockSparseConfig& sparse) {
    return test::error_text([&] { (void)Attention(make_config(false), sparse); });
  };
  CHECK(construct({.block_size = 0}) == "block_size = 0: must be positive");
  CHECK(construct({.window = -1}) == "window = -1: must not be negative");
  CHECK(construct({.global_tokens = -3}) == "global_tokens = -3: must not be negative");
  CHECK(construct({.dilation_rates = {1, 0}}) == "dilation_rates[1] = 0: must be positive");
  CHECK(construct({.pattern = ra::BlockPattern::dilated_sparse, .dilation_rates = {}}) ==
        "dilation_rates.size() = 0: at least one rate is needed");
  CHECK(construct({.blocks = {{0, 0}}}) ==
        "blocks.size() = 1: must be 0 unless pattern is BlockPattern::custom");
  CHECK(construct({.pattern = ra::BlockPattern::custom, .blocks = {{0, 0}, {0, -2}}}) ==
        "blocks[1].key = -2: must not be negative");
  CHECK(construct({.pattern = static_cast<ra::BlockPattern>(9)}) ==
        "pattern = 9: is not a value of BlockPattern");
  ra::AttentionConfig config = make_config(false);
  config.ring_size = 0;
  CHECK(test::error_text([&] { (void)Attention(config); }) == "ring_size = 0: must be positive");

  const auto in = test::random_inputs<float>({2, 40, 2, 8}, 1);
  const auto forward = [&](std::vector<ra::BlockPair> blocks, std::vector<std::int64_t> lengths) {
    const Attention attention(
        make_config(true),
        {.pattern = ra::BlockPattern::custom, .block_size = 16, .blocks = std::move(blocks)});
    return test::error_text([&] { (void)attention.forward(in.q, in.k, in.v, {.lengths = lengths}); });
  };
  CHECK(forward({{2, 2}, {0, 3}}, {}) ==
        "blocks[1].key = 3: must be below ceil(n / block_size) = 3 with n = 40");
  CHECK(forward({{7, 0}}, {}) == "blocks[0].query = 7: must be below ceil(n / block_size) = 3 with n = 40");
  CHECK(forward({{2, 2}}, {40, 5}) == "no error");
  CHECK(forward({{2, 2}}, {40, 41}) == "lengths[1] = 41: must lie in [0, n] with n = 40");
}
