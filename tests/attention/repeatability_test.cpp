// suites: instructions
// unit: values
// The same call gives the same bits: again, through every overload, with any number of threads, from many
// threads at once; and it prints nothing.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <ring_attention/parallel.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/random_case.hpp"
#include "support/tensors.hpp"
#include "support/threads.hpp"

#if defined(__unix__)
#include <unistd.h>
#endif

namespace {

namespace ra = ring_attention;

ra::AttentionConfig make_config(std::uint64_t rules) {
  ra::AttentionConfig config;
  test::set_rules(config, rules);
  config.segment_lengths = {50, 333, 1000};
  config.dilation_rates = {1, 3, 4};
  config.ring_size = 1 + static_cast<std::int64_t>(rules % 5);
  return config;
}

template <class T>
bool same(const ra::AttentionResult<T>& a, const ra::AttentionResult<T>& b) {
  return test::bitwise_equal(a.out, b.out) && test::bitwise_equal(a.lse, b.lse);
}

/// What is wrong where gradients differ by more than the tolerance.
template <class T>
std::string difference(const ra::Tensor<T>& actual, const ra::Tensor<T>& expected) {
  test::Comparison comparison("gradient", test::tolerance_of<T>().gradient);
  const auto reference = test::to_float64(expected.view());
  const double size = test::gradient_size<T>(reference);
  for (std::int64_t i = 0; i < actual.size(); ++i) {
    comparison.add(actual.data()[i], reference[static_cast<std::size_t>(i)], {i, 0, 0, 0}, size);
  }
  return comparison.passed() ? "" : comparison.message();
}

}  // namespace

TEMPLATE_TEST_CASE("V2 two runs and any number of threads give the same bits", "[attention][repeatability]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  const auto in = test::random_inputs<TestType>({2, 701, 4, 8}, 2);
  const ra::ForwardOptions options{.lengths = {701, 402}};
  for (std::uint64_t rules = 0; rules < test::rule_combinations; ++rules) {
    const ra::RingDilatedAttentionV2<TestType> attention(make_config(rules));
    const auto run = [&](int threads) {
      const test::ThreadScope scope(threads);
      return attention.forward_with_lse(in.q, in.k, in.v, options);
    };
    const auto first = run(1);
    INFO("rules " << rules);
    CHECK(same(run(4), first));
    CHECK(same(run(4), first));
    CHECK(same(run(13), first));
  }
}

TEMPLATE_TEST_CASE("V2 all overloads of forward give the same bits", "[attention][repeatability]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  const auto in = test::random_inputs<TestType>({2, 83, 4, 16}, 2);
  for (const ra::ForwardOptions& options : {ra::ForwardOptions{}, ra::ForwardOptions{.lengths = {83, 40}}}) {
    for (std::uint64_t rules = 0; rules < test::rule_combinations; ++rules) {
      const ra::RingDilatedAttentionV2<TestType> attention(make_config(rules));
      const auto expected = attention.forward_with_lse(in.q, in.k, in.v, options);
      INFO("rules " << rules);
      CHECK(test::bitwise_equal(attention.forward(in.q, in.k, in.v, options), expected.out));
      ra::Tensor<TestType> out(in.q.shape());
      attention.forward(in.q.view(), in.k.view(), in.v.view(), out.view(), options);
      CHECK(test::bitwise_equal(out, expected.out));
      ra::AttentionResult<TestType> both{ra::Tensor<TestType>(in.q.shape()),
                                         decltype(expected.lse)(expected.lse.shape())};
      attention.forward(in.q.view(), in.k.view(), in.v.view(), both.out.view(), both.lse.view(), options);
      CHECK(same(both, expected));
      if (options.lengths.empty()) {
        CHECK(test::bitwise_equal(attention.forward(in.q, in.k, in.v), expected.out));
        CHECK(same(attention.forward_with_lse(in.q, in.k, in.v), expected));
      }
    }
  }
}

TEST_CASE("V2 leaves its inputs alone", "[attention][repeatability]") {
  const auto in = test::random_inputs<float>({2, 83, 4, 16}, 2);
  const auto copy = in;
  (void)ra::RingDilatedAttentionV2<float>(make_config(47)).forward(in.q, in.k, in.v);
  CHECK(test::bitwise_equal(in.q, copy.q));
  CHECK(test::bitwise_equal(in.k, copy.k));
  CHECK(test::bitwise_equal(in.v, copy.v));
}

TEMPLATE_TEST_CASE("V2 one object serves many threads at once", "[attention][repeatability]",
                   ra::use_pattern_cache, ra::use_local_cache, ra::use_no_cache) {
  constexpr std::size_t callers = 8;
  constexpr int calls = 6;
  for (const std::uint64_t rules : {0U, 13U, 22U, 47U}) {
    const ra::RingDilatedAttentionV2<float, TestType> attention(make_config(rules));
    // Each caller has its own inputs and its own length, so that plans, patterns and tensors all differ.
    std::vector<test::CallInputs<float>> inputs;
    std::vector<ra::AttentionResult<float>> expected;
    for (std::size_t i = 0; i < callers; ++i) {
      inputs.push_back(test::random_inputs<float>({1, 150 + 31 * static_cast<std::int64_t>(i), 4, 8}, 2, i));
      expected.push_back(attention.forward_with_lse(inputs[i].q, inputs[i].k, inputs[i].v));
    }
    ra::clear_pattern_cache();
    const test::ThreadScope threads(3);
    std::array<int, callers> wrong{};
    std::vector<std::thread> running;
    for (std::size_t i = 0; i < callers; ++i) {
      running.emplace_back([&, i] {
        for (int call = 0; call < calls; ++call) {
          const auto result = attention.forward_with_lse(inputs[i].q, inputs[i].k, inputs[i].v);
          if (!same(result, expected[i])) ++wrong[i];
        }
      });
    }
    for (std::thread& thread : running) thread.join();
    CHECK(wrong == std::array<int, callers>{});
  }
}

#if defined(__unix__)

namespace {

/// Sends a file descriptor to a temporary file for a scope.
class Capture {
 public:
  explicit Capture(int descriptor) : descriptor_(descriptor), saved_(dup(descriptor)), file_(std::tmpfile()) {
    if (saved_ < 0 || file_ == nullptr) throw std::runtime_error("cannot capture output");
    std::fflush(nullptr);
    dup2(fileno(file_), descriptor_);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  ~Capture() {
    std::fflush(nullptr);
    dup2(saved_, descriptor_);
    close(saved_);
    std::fclose(file_);
  }

  long bytes() const {
    std::fflush(nullptr);
    return static_cast<long>(lseek(descriptor_, 0, SEEK_END));
  }

 private:
  int descriptor_;
  int saved_;
  std::FILE* file_;
};

}  // namespace

TEST_CASE("V2 prints nothing, not even when it fails", "[attention][repeatability]") {
  const auto in = test::random_inputs<float>({2, 83, 4, 16}, 2);
  long witness = 0;
  long printed = 0;
  bool refused = false;
  {
    const Capture output(STDOUT_FILENO);
    const Capture errors(STDERR_FILENO);
    for (std::uint64_t rules = 0; rules < test::rule_combinations; ++rules) {
      const ra::RingDilatedAttentionV2<float> attention(make_config(rules));
      (void)attention.forward_with_lse(in.q, in.k, in.v);
      try {
        (void)attention.forward(in.q, in.k, in.v, ra::ForwardOptions{.lengths = {1}});
      } catch (const std::invalid_argument&) {
        refused = true;
      }
    }
    printed = output.bytes() + errors.bytes();
    std::fputs("seen", stdout);
    witness = output.bytes();
  }
  CHECK(refused);
  CHECK(printed == 0);
  CHECK(witness == 4);
}

#endif

TEMPLATE_TEST_CASE("V2 backward of few units gives the same bits again and agrees with one thread",
                   "[attention][repeatability][threads]", float, double, Eigen::bfloat16) {
  for (const bool causal : {false, true}) {
    ra::AttentionConfig config = ra::ring_preset();
    config.causal = causal;
    config.segment_lengths = {1100};
    config.dilation_rates = {1};
    const ra::RingDilatedAttentionV2<TestType> attention(config);
    const auto in = test::random_inputs<TestType>({1, 1100, 2, 16}, 2, 1);
    const auto grad_out = test::random_inputs<TestType>({1, 1100, 2, 16}, 2, 2).q;
    const auto result = attention.forward_with_lse(in.q, in.k, in.v);
    const auto run = [&](int threads) {
      const test::ThreadScope scope(threads);
      return attention.backward(in.q, in.k, in.v, result, grad_out);
    };
    const auto alone = run(1);
    for (const int threads : {2, 5, 16}) {
      INFO("causal " << causal << ", threads " << threads);
      const auto first = run(threads);
      for (int round = 0; round < 10; ++round) {
        const auto again = run(threads);
        REQUIRE(test::bitwise_equal(again.q, first.q));
        REQUIRE(test::bitwise_equal(again.k, first.k));
        REQUIRE(test::bitwise_equal(again.v, first.v));
      }
      CHECK(difference(first.q, alone.q) == "");
      CHECK(difference(first.k, alone.k) == "");
      CHECK(difference(first.v, alone.v) == "");
    }
  }
}

TEST_CASE("V2 callers with more threads than cores, at once, get the bits that one alone gets",
          "[attention][repeatability][threads]") {
  const test::ThreadScope scope(4 * ra::num_threads());
  ra::AttentionConfig config = ra::ring_preset();
  config.segment_lengths = {600};
  config.dilation_rates = {1};
  const ra::RingDilatedAttentionV2<float> attention(config);
  const auto in = test::random_inputs<float>({1, 600, 1, 16}, 1);
  const auto result = attention.forward_with_lse(in.q, in.k, in.v);
  const auto expected = attention.backward(in.q, in.k, in.v, result, in.q);
  std::array<bool, 4> right{true, true, true, true};
  test::run_together(4, [&](int caller) {
    for (int round = 0; round < 10; ++round) {
      const auto again = attention.forward_with_lse(in.q, in.k, in.v);
      const auto grads = attention.backward(in.q, in.k, in.v, again, in.q);
      if (!same(again, result) || !test::bitwise_equal(grads.q, expected.q) ||
          !test::bitwise_equal(grads.k, expected.k) || !test::bitwise_equal(grads.v, expected.v)) {
        right[static_cast<std::size_t>(caller)] = false;
      }
    }
  });
  CHECK(right == std::array<bool, 4>{true, true, true, true});
}
