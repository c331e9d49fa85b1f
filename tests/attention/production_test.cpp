// suites: compilers
// What RingDilatedAttentionProduction adds to V2: workspace limits, the finite check, counters.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <ring_attention/attention/ring_dilated_attention_production.hpp>
#include <ring_attention/json.hpp>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/check_backward.hpp"
#include "support/check_forward.hpp"
#include "support/error_text.hpp"
#include "support/named_minimum.hpp"
#include "support/random_case.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

template <class Scalar>
using Production = ra::RingDilatedAttentionProduction<Scalar>;

// They are the same types whatever instruction set a unit is compiled for.
namespace data = ra::RING_ATTENTION_NAMESPACE;
static_assert(std::is_same_v<ra::ProductionOptions, data::ProductionOptions>);
static_assert(std::is_same_v<ra::ProductionCounters, data::ProductionCounters>);
static_assert(std::is_same_v<ra::OutOfWorkspace, data::OutOfWorkspace>);

ra::AttentionConfig two_branches() {
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {60, 700};
  config.dilation_rates = {1, 3};
  config.query_rule = ra::QueryRule::all;
  config.ring_size = 2;
  return config;
}

}  // namespace

TEMPLATE_TEST_CASE("production forward: any limit down to the minimum gives the result",
                   "[attention][production]", float, double, Eigen::half, Eigen::bfloat16) {
  const auto in = test::random_inputs<TestType>({2, 260, 4, 24}, 2);
  const ra::ForwardOptions options{.lengths = {260, 133}};
  for (const int threads : {1, 3}) {
    const test::ThreadScope scope(threads);
    const ra::AttentionConfig config = two_branches();
    const auto with_limit = [&](std::size_t limit) {
      return Production<TestType>(config, ra::ProductionOptions{.workspace_limit_bytes = limit});
    };
    const std::size_t least =
        test::named_minimum([&] { (void)with_limit(1).forward(in.q, in.k, in.v, options); });
    CHECK(test::error_text([&] { (void)with_limit(least - 1).forward(in.q, in.k, in.v, options); }) !=
          "no error");
    const auto unlimited = with_limit(std::numeric_limits<std::size_t>::max());
    (void)unlimited.forward(in.q, in.k, in.v, options);
    const std::uint64_t most = unlimited.counters().workspace_bytes;
    CHECK(most > 3 * least);
    std::uint64_t before = 0;
    int chunkings = 0;
    for (std::size_t limit = least; limit < 2 * most; limit += std::max<std::size_t>(1, limit / 2)) {
      const auto attention = with_limit(limit);
      const auto result = attention.forward_with_lse(in.q, in.k, in.v, options);
      INFO("limit " << limit << ", least " << least << ", threads " << threads);
      const std::uint64_t used = attention.counters().workspace_bytes;
      CHECK(used <= limit);
      CHECK(used >= before);
      chunkings += used != before;
      before = used;
      const std::string failure = test::check_result(config, in, result, options);
      INFO(failure);
      CHECK(failure.empty());
      const auto again = attention.forward_with_lse(in.q, in.k, in.v, options);
      CHECK(test::bitwise_equal(again.out, result.out));
      CHECK(test::bitwise_equal(again.lse, result.lse));
    }
    CHECK(chunkings >= 4);
    CHECK(before == most);
  }
}

TEMPLATE_TEST_CASE("production backward: any limit down to the minimum gives the gradients",
                   "[attention][production]", float, double, Eigen::half, Eigen::bfloat16) {
  constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();
  test::RandomCase c;
  c.seed = 7;
  c.config = two_branches();
  c.q = {2, 230, 6, 24};
  c.k = {2, 230, 3, 24};
  c.lengths = {230, 101};
  const auto in = test::random_inputs<TestType>(c.q, 3);
  const auto grad_out = test::random_tensor<TestType>(c.q, 9);
  for (const auto mix : {ra::MixGradient::exact, ra::MixGradient::detached}) {
    for (const std::int64_t ring_size : {1, 2, 7}) {
      c.config.mix_gradient = mix;
      c.config.ring_size = ring_size;
      c.threads = ring_size == 2 ? 1 : 3;
      const test::ThreadScope scope(c.threads);
      const auto with_limit = [&](std::size_t limit) {
        return Production<TestType>(c.config, ra::ProductionOptions{.workspace_limit_bytes = limit});
      };
      const auto result =
          with_limit(unlimited).forward_with_lse(in.q, in.k, in.v, ra::ForwardOptions{.lengths = c.lengths});
      const auto backward = [&](const Production<TestType>& attention) {
        return attention.backward(in.q, in.k, in.v, result, grad_out,
                                  ra::BackwardOptions{.lengths = c.lengths});
      };
      const auto whole = with_limit(unlimited);
      const auto expected = backward(whole);
      const std::uint64_t most = whole.counters().workspace_bytes;
      const std::size_t least = test::named_minimum([&] { (void)backward(with_limit(1)); });
      const std::string refusal = test::error_text([&] { (void)backward(with_limit(least - 1)); });
      CHECK(refusal == "workspace_limit_bytes = " + std::to_string(least - 1) +
                           ": a call of this shape needs at least " + std::to_string(least) + " bytes");
      CHECK(most > 4 * least);
      std::uint64_t before = 0;
      int chunkings = 0;
      for (std::size_t limit = least; limit < 2 * most; limit += limit / 2) {
        const auto attention = with_limit(limit);
        const auto grads = backward(attention);
        const std::uint64_t used = attention.counters().workspace_bytes;
        INFO("ring " << ring_size << ", detached " << (mix == ra::MixGradient::detached) << ", limit "
                     << limit << ", least " << least << ", used " << used);
        CHECK(used <= limit);
        chunkings += used != before;
        before = used;
        const auto check_same = [&](const char* name, const ra::Tensor<TestType>& a,
                                    const ra::Tensor<TestType>& b) {
          // The same pairs in another grouping: the tolerance of one result against another.
          const auto reference = test::to_float64(b.view());
          const auto comparison = test::compare_all(name, test::to_float64(a.view()), reference,
                                                    2 * test::tolerance_of<TestType>().gradient,
                                                    test::gradient_size<TestType>(reference));
          INFO(comparison.message());
          CHECK(comparison.passed());
        };
        check_same("grad_q", grads.q, expected.q);
        check_same("grad_k", grads.k, expected.k);
        check_same("grad_v", grads.v, expected.v);
        const auto again = backward(attention);
        CHECK(test::bitwise_equal(again.q, grads.q));
        CHECK(test::bitwise_equal(again.k, grads.k));
        CHECK(test::bitwise_equal(again.v, grads.v));
      }
      CHECK(chunkings >= 4);
      CHECK(before == most);

      // Against the oracle; its forward has the same limit.
      const std::size_t forward_least = test::named_minimum(
          [&] { (void)with_limit(1).forward(in.q, in.k, in.v, ra::ForwardOptions{.lengths = c.lengths}); });
      const std::size_t first = std::max(least, forward_least);
      for (const std::size_t limit : {first, std::max<std::size_t>(first, most / 3)}) {
        const auto attention = with_limit(limit);
        const std::string failure = test::check_backward<TestType>(c, attention);
        INFO("ring " << ring_size << ", limit " << limit << '\n' << failure);
        CHECK(failure.empty());
        CHECK(attention.counters().workspace_bytes <= limit);
      }
    }
  }
}

TEMPLATE_TEST_CASE("production backward: with the sums of all rows, branches need no memory of their own",
                   "[attention][production]", float, double, Eigen::half, Eigen::bfloat16) {
  const auto in = test::random_inputs<TestType>({1, 500, 8, 1}, 4);
  const test::ThreadScope scope(1);
  const auto with_branches = [&](std::size_t branches, std::size_t limit) {
    ra::AttentionConfig config = ra::longnet_preset();
    config.segment_lengths.assign(branches, 60);
    config.dilation_rates.assign(branches, 1);
    config.mix_gradient = ra::MixGradient::detached;
    const Production<TestType> attention(config, ra::ProductionOptions{.workspace_limit_bytes = limit});
    const auto result = Production<TestType>(config).forward_with_lse(in.q, in.k, in.v);
    (void)attention.backward(in.q, in.k, in.v, result, in.q);
    return attention.counters().workspace_bytes;
  };
  constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();
  const std::uint64_t most = with_branches(2, unlimited);
  CHECK(with_branches(10, unlimited) == most);
  // Chunks of sums would need a number per branch, more than the sums of all rows: they are not resorted to.
  const std::size_t least = test::named_minimum([&] { (void)with_branches(10, 1); });
  CHECK(least < most);
  CHECK(with_branches(10, least) == least);
}

TEST_CASE("production: a refused call leaves its output alone and is not counted",
          "[attention][production]") {
  const auto in = test::random_inputs<float>({1, 50, 2, 8}, 2);
  const Production<float> attention(two_branches(), ra::ProductionOptions{.workspace_limit_bytes = 1});
  ra::Tensor<float> out(in.q.shape());
  for (std::int64_t i = 0; i < out.size(); ++i) out.data()[i] = 3.0F;
  const ra::Tensor<float> before = out;
  CHECK(test::error_text([&] { attention.forward(in.q.view(), in.k.view(), in.v.view(), out.view()); }) !=
        "no error");
  CHECK(test::bitwise_equal(out, before));
  CHECK(attention.counters().forward_calls == 0);
  CHECK(attention.counters().tokens == 0);
}

TEMPLATE_TEST_CASE("production: the first element that is not finite is named", "[attention][production]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
  const ra::Shape shape{2, 40, 4, 8};
  const std::vector<std::int64_t> lengths{40, 25};
  for (const int threads : {1, 4}) {
    const test::ThreadScope scope(threads);
    const Production<TestType> attention(two_branches(), ra::ProductionOptions{.check_finite = true});
    const auto in = test::random_inputs<TestType>(shape, 2);
    const auto grad_out = test::random_tensor<TestType>(shape, 9);
    const auto result = attention.forward_with_lse(in.q, in.k, in.v);
    const auto forward = [&](const test::CallInputs<TestType>& bad, std::vector<std::int64_t> valid = {}) {
      return test::error_text([&] {
        (void)attention.forward(bad.q, bad.k, bad.v, ra::ForwardOptions{.lengths = std::move(valid)});
      });
    };
    const auto backward = [&](const test::CallInputs<TestType>& bad, const ra::Tensor<TestType>& bad_grad) {
      return test::error_text([&] { (void)attention.backward(bad.q, bad.k, bad.v, result, bad_grad); });
    };
    CHECK(forward(in) == "no error");
    CHECK(backward(in, grad_out) == "no error");

    auto bad = in;
    bad.q(1, 3, 2, 7) = TestType(infinity);
    bad.q(1, 3, 3, 0) = TestType(not_a_number);
    CHECK(forward(bad) == "q(1, 3, 2, 7) = inf: must be finite");
    CHECK(backward(bad, grad_out) == "q(1, 3, 2, 7) = inf: must be finite");
    bad.q(0, 39, 3, 7) = TestType(-infinity);
    CHECK(forward(bad) == "q(0, 39, 3, 7) = -inf: must be finite");

    bad = in;
    bad.k(0, 0, 1, 0) = TestType(not_a_number);
    CHECK(forward(bad).starts_with("k(0, 0, 1, 0) = "));
    CHECK(forward(bad).find("nan: must be finite") != std::string::npos);
    bad = in;
    bad.v(1, 39, 0, 5) = TestType(infinity);
    CHECK(forward(bad) == "v(1, 39, 0, 5) = inf: must be finite");
    CHECK(forward(bad, lengths) == "no error");  // rows past a length are not looked at
    bad.v(1, 24, 1, 0) = TestType(infinity);
    CHECK(forward(bad, lengths) == "v(1, 24, 1, 0) = inf: must be finite");

    auto bad_grad = grad_out;
    bad_grad(0, 11, 0, 1) = TestType(-infinity);
    CHECK(backward(in, bad_grad) == "grad_out(0, 11, 0, 1) = -inf: must be finite");

    const Production<TestType> careless(two_branches());
    CHECK(test::error_text([&] { (void)careless.forward(bad.q, bad.k, bad.v); }) == "no error");
  }
}

TEST_CASE("production: counters add up, as a struct and as JSON", "[attention][production]") {
  ra::PatternCache cache;
  const Production<float> attention(two_branches(), ra::use_pattern_cache(cache));
  const auto zero = attention.counters();
  CHECK((zero.forward_calls == 0 && zero.backward_calls == 0 && zero.tokens == 0 && zero.seconds == 0));
  CHECK((zero.workspace_bytes == 0 && zero.cache_hits == 0 && zero.cache_misses == 0));

  const auto in = test::random_inputs<float>({2, 90, 3, 8}, 3);
  const auto result = attention.forward_with_lse(in.q, in.k, in.v);
  const auto first = attention.counters();
  CHECK(first.forward_calls == 1);
  CHECK(first.backward_calls == 0);
  CHECK(first.tokens == 180);
  CHECK(first.seconds > 0);
  CHECK(first.workspace_bytes > 0);
  // by_head: offset 0 of the first branch, offsets 0, 1 and 2 of the second, both clipped to 90 tokens.
  CHECK(first.cache_misses == 4);
  CHECK(first.cache_hits == 0);

  (void)attention.forward(in.q, in.k, in.v);
  (void)attention.backward(in.q, in.k, in.v, result, in.q);
  const auto third = attention.counters();
  CHECK(third.forward_calls == 2);
  CHECK(third.backward_calls == 1);
  CHECK(third.tokens == 540);
  CHECK(third.seconds > first.seconds);
  CHECK(third.workspace_bytes >= first.workspace_bytes);
  CHECK(third.cache_misses == 4);
  CHECK(third.cache_hits == 8);
  CHECK(cache.stats().hits == 8);
  CHECK(cache.stats().misses == 4);

  cache.clear();
  (void)attention.forward(in.q, in.k, in.v);
  CHECK(attention.counters().cache_misses == 8);

  const auto last = attention.counters();
  const nlohmann::json json = last;
  CHECK(json.size() == 7);
  CHECK(json.at("forward_calls") == last.forward_calls);
  CHECK(json.at("backward_calls") == last.backward_calls);
  CHECK(json.at("tokens") == last.tokens);
  CHECK(json.at("seconds") == last.seconds);
  CHECK(json.at("workspace_bytes") == last.workspace_bytes);
  CHECK(json.at("cache_hits") == last.cache_hits);
  CHECK(json.at("cache_misses") == last.cache_misses);
  CHECK(nlohmann::json::parse(json.dump()) == json);
  const nlohmann::json of_cache = cache.stats();
  CHECK(of_cache.at("misses") == cache.stats().misses);
  CHECK(of_cache.at("entries") == cache.stats().entries);
}

TEST_CASE("production: empty calls are counted and need no workspace", "[attention][production]") {
  const Production<float> attention(two_branches(),
                                    ra::ProductionOptions{.workspace_limit_bytes = 1, .check_finite = true});
  for (const ra::Shape& shape : {ra::Shape{0, 5, 2, 4}, ra::Shape{3, 0, 2, 4}}) {
    const ra::Tensor<float> q(shape);
    const auto result = attention.forward_with_lse(q, q, q);
    CHECK(result.out.shape() == shape);
    CHECK(attention.backward(q, q, q, result, q).v.shape() == shape);
  }
  CHECK(attention.counters().forward_calls == 2);
  CHECK(attention.counters().backward_calls == 2);
  CHECK(attention.counters().tokens == 0);
}

TEMPLATE_TEST_CASE("production: one object serves many threads at once", "[attention][production]",
                   ra::use_pattern_cache, ra::use_local_cache, ra::use_no_cache) {
  constexpr std::size_t callers = 6;
  constexpr std::uint64_t calls = 4;
  const test::ThreadScope scope(2);
  const ra::RingDilatedAttentionProduction<float, TestType> attention(
      two_branches(), ra::ProductionOptions{.check_finite = true});
  std::vector<test::CallInputs<float>> inputs;
  std::vector<ra::AttentionResult<float>> expected;
  std::vector<ra::Gradients<float>> expected_grads;
  std::uint64_t tokens = 0;
  for (std::size_t i = 0; i < callers; ++i) {
    const std::int64_t n = 100 + 37 * static_cast<std::int64_t>(i % 3);
    inputs.push_back(test::random_inputs<float>({1, n, 4, 8}, 2, i + 1));
    expected.push_back(attention.forward_with_lse(inputs[i].q, inputs[i].k, inputs[i].v));
    expected_grads.push_back(
        attention.backward(inputs[i].q, inputs[i].k, inputs[i].v, expected[i], inputs[i].q));
    tokens += 2 * static_cast<std::uint64_t>(n);
  }
  std::array<int, callers> wrong{};
  std::vector<std::thread> running;
  for (std::size_t i = 0; i < callers; ++i) {
    running.emplace_back([&, i] {
      for (std::uint64_t call = 0; call < calls; ++call) {
        const auto& in = inputs[i];
        const auto result = attention.forward_with_lse(in.q, in.k, in.v);
        const auto grads = attention.backward(in.q, in.k, in.v, result, in.q);
        wrong[i] += !test::bitwise_equal(result.out, expected[i].out);
        wrong[i] += !test::bitwise_equal(result.lse, expected[i].lse);
        wrong[i] += !test::bitwise_equal(grads.q, expected_grads[i].q);
        wrong[i] += !test::bitwise_equal(grads.k, expected_grads[i].k);
        wrong[i] += !test::bitwise_equal(grads.v, expected_grads[i].v);
      }
    });
  }
  for (std::thread& thread : running) thread.join();
  CHECK(wrong == std::array<int, callers>{});
  CHECK(attention.counters().forward_calls == callers * (calls + 1));
  CHECK(attention.counters().backward_calls == callers * (calls + 1));
  CHECK(attention.counters().tokens == tokens * (calls + 1));
}
