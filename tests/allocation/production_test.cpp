// Heap allocations of RingDilatedAttentionProduction: none in later calls, forward or backward, and what
// happens when one fails.
#include <algorithm>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <ring_attention/attention/ring_dilated_attention_production.hpp>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <string>
#include <utility>
#include <vector>

#include "allocation/counting.hpp"
#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/named_minimum.hpp"
#include "support/tensors.hpp"
#include "support/threads.hpp"

namespace {

namespace ra = ring_attention;

ra::AttentionConfig make_config(std::uint64_t rules) {
  ra::AttentionConfig config;
  test::set_rules(config, rules);
  config.segment_lengths = {30, 150, 400};
  config.dilation_rates = {1, 3, 4};
  config.ring_size = 1 + static_cast<std::int64_t>(rules % 5);
  return config;
}

/// An optimizer may leave out a pair of new and delete, but not one whose pointer it cannot follow.
std::uint64_t counted(const std::function<void*()>& allocate, const std::function<void(void*)>& free) {
  const std::uint64_t before = test::allocations();
  free(allocate());
  return test::allocations() - before;
}

}  // namespace

TEST_CASE("allocations are counted, whatever makes them", "[allocation]") {
  CHECK(counted([] { return ::operator new(10); }, [](void* p) { ::operator delete(p); }) > 0);
  CHECK(counted([] { return ::operator new (10, std::align_val_t{64}); },
                [](void* p) { ::operator delete (p, std::align_val_t{64}); }) > 0);
  CHECK(counted([] { return new std::vector<int>(100); },
                [](void* p) { delete static_cast<std::vector<int>*>(p); }) > 0);
  if (!test::counts_malloc()) return;
  CHECK(counted([] { return std::malloc(10); }, std::free) == 1);
  CHECK(counted([] { return std::calloc(2, 5); }, std::free) == 1);
  CHECK(counted([] { return std::realloc(nullptr, 10); }, std::free) == 1);
  CHECK(counted([] { return std::aligned_alloc(64, 64); }, std::free) == 1);
  CHECK(counted(
            [] {
              void* p = nullptr;
              return posix_memalign(&p, 64, 64) == 0 ? p : nullptr;
            },
            std::free) == 1);
}

TEMPLATE_TEST_CASE("the second and later forward of a shape allocates nothing", "[allocation]",
                   (std::pair<float, ra::use_pattern_cache>), (std::pair<float, ra::use_local_cache>),
                   (std::pair<double, ra::use_pattern_cache>), (std::pair<Eigen::half, ra::use_local_cache>),
                   (std::pair<Eigen::bfloat16, ra::use_pattern_cache>)) {
  using Scalar = typename TestType::first_type;
  using Policy = typename TestType::second_type;
  const auto in = test::random_inputs<Scalar>({2, 300, 4, 24}, 2);
  for (const bool ragged : {false, true}) {
    ra::ForwardOptions options;
    if (ragged) options.lengths = {300, 133};
    for (const int threads : {1, 2, 5}) {
      const test::ThreadScope scope(threads);
      for (std::uint64_t rules = 0; rules < test::rule_combinations; rules += 5) {
        const ra::RingDilatedAttentionProduction<Scalar, Policy> attention(
            make_config(rules), ra::ProductionOptions{.check_finite = true});
        ra::Tensor<Scalar> out(in.q.shape());
        ra::Tensor<ra::accumulator_t<Scalar>> lse(2, 4, 300, 1);
        attention.forward(in.q, in.k, in.v, out, options);
        const ra::Tensor<Scalar> first = out;
        const std::uint64_t before = test::allocations();
        attention.forward(in.q, in.k, in.v, out, options);
        attention.forward(in.q, in.k, in.v, out, options);
        attention.forward(in.q, in.k, in.v, out, lse, options);
        attention.forward(in.q, in.k, in.v, out, lse, options);
        const std::uint64_t after = test::allocations();
        INFO("rules " << rules << ", threads " << threads << ", ragged " << ragged);
        CHECK(after == before);
        CHECK(test::bitwise_equal(out, first));
      }
    }
  }
}

TEST_CASE("shapes that alternate keep a workspace each", "[allocation]") {
  const auto small = test::random_inputs<float>({1, 120, 2, 24}, 2);
  const auto large = test::random_inputs<float>({2, 300, 6, 40}, 3);
  const test::ThreadScope scope(2);
  for (const bool small_first : {false, true}) {
    const ra::RingDilatedAttentionProduction<float> attention(make_config(17));
    std::vector<const test::CallInputs<float>*> order{&small, &large};
    if (!small_first) std::swap(order[0], order[1]);
    std::vector<ra::Tensor<float>> outs, expected;
    for (const auto* in : order) {
      outs.emplace_back(in->q.shape());
      attention.forward(in->q, in->k, in->v, outs.back());
    }
    expected = outs;
    const std::uint64_t before = test::allocations();
    for (int round = 0; round < 3; ++round) {
      for (std::size_t i = 0; i < order.size(); ++i) {
        attention.forward(order[i]->q, order[i]->k, order[i]->v, outs[i]);
      }
    }
    const std::uint64_t after = test::allocations();
    CHECK(after == before);
    for (std::size_t i = 0; i < order.size(); ++i) CHECK(test::bitwise_equal(outs[i], expected[i]));
  }
}

namespace {

/// Holds every call that asks for a pattern until as many as were told have asked.
class MeetingPolicy {
 public:
  explicit MeetingPolicy(std::barrier<>& meeting) : meeting_(&meeting) {}
  ra::PatternCache::Pattern dilated_indices(const ra::PatternKey& key) const {
    meeting_->arrive_and_wait();
    return ra::use_pattern_cache().dilated_indices(key);
  }

 private:
  std::barrier<>* meeting_;
};

}  // namespace

TEST_CASE("a burst of calls leaves eight workspaces", "[allocation]") {
  constexpr int callers = 20;
  const test::ThreadScope scope(1);
  ra::AttentionConfig config;
  config.segment_lengths = {300};
  config.dilation_rates = {1};
  const auto in = test::random_inputs<float>({1, 300, 4, 64}, 4);
  std::vector<ra::Tensor<float>> outs(callers, ra::Tensor<float>(in.q.shape()));
  const auto expected =
      ra::RingDilatedAttentionV2<float>(config).forward(in.q, in.k, in.v);  // fills the cache
  std::barrier meeting(callers);
  const ra::RingDilatedAttentionProduction<float, MeetingPolicy> attention(config, MeetingPolicy(meeting));
  for (int burst = 0; burst < 2; ++burst) {
    const std::int64_t before = test::held_by_program();
    test::run_together(callers, [&](int caller) {
      attention.forward(in.q, in.k, in.v, outs[static_cast<std::size_t>(caller)]);
    });
    const std::int64_t kept = test::held_by_program() - before;
    const auto workspace = static_cast<std::int64_t>(attention.counters().workspace_bytes);
    INFO("burst " << burst << ", kept " << kept << ", workspace of a call " << workspace);
    CHECK(workspace > 50'000);
    if (burst == 0) CHECK(kept > 8 * workspace);
    CHECK(kept < 9 * workspace);
    if (burst == 1) CHECK(kept < workspace);
    for (const auto& out : outs) CHECK(test::bitwise_equal(out, expected));
  }
}

TEMPLATE_TEST_CASE("the second and later backward of a shape allocates nothing", "[allocation]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using Production = ra::RingDilatedAttentionProduction<TestType>;
  const auto in = test::random_inputs<TestType>({2, 300, 4, 24}, 2);
  const auto grad_out = test::random_tensor<TestType>({2, 300, 4, 24}, 9);
  const auto grad_lse = test::random_tensor<ra::accumulator_t<TestType>>({2, 4, 300, 1}, 7);
  for (const bool ragged : {false, true}) {
    ra::ForwardOptions forward_options;
    ra::BackwardOptions options;
    if (ragged) options.lengths = forward_options.lengths = {300, 133};
    if (ragged) options.grad_lse = grad_lse.view();
    for (const int threads : {1, 4}) {
      const test::ThreadScope scope(threads);
      for (std::uint64_t rules = 0; rules < test::rule_combinations; rules += 7) {
        for (const auto mix : {ra::MixGradient::exact, ra::MixGradient::detached}) {
          ra::AttentionConfig config = make_config(rules);
          config.mix_gradient = mix;
          const auto result = Production(config).forward_with_lse(in.q, in.k, in.v, forward_options);
          ra::Tensor<TestType> grad_q(in.q.shape()), grad_k(in.k.shape()), grad_v(in.v.shape());
          const auto backward = [&](const Production& attention) {
            attention.backward(in.q, in.k, in.v, result.out, result.lse, grad_out, {grad_q, grad_k, grad_v},
                               options);
          };
          const std::size_t least = test::named_minimum(
              [&] { backward(Production(config, ra::ProductionOptions{.workspace_limit_bytes = 1})); });
          for (const std::size_t limit : {std::numeric_limits<std::size_t>::max(), 2 * least, least}) {
            const Production attention(
                config, ra::ProductionOptions{.workspace_limit_bytes = limit, .check_finite = true});
            backward(attention);
            const auto first_q = grad_q, first_k = grad_k, first_v = grad_v;
            const std::uint64_t before = test::allocations();
            backward(attention);
            backward(attention);
            const std::uint64_t after = test::allocations();
            INFO("rules " << rules << ", threads " << threads << ", ragged " << ragged << ", detached "
                          << (mix == ra::MixGradient::detached) << ", limit " << limit);
            CHECK(after == before);
            CHECK(test::bitwise_equal(grad_q, first_q));
            CHECK(test::bitwise_equal(grad_k, first_k));
            CHECK(test::bitwise_equal(grad_v, first_v));
          }
        }
      }
    }
  }
}

TEMPLATE_TEST_CASE("forward and backward that alternate allocate nothing, and share their memory",
                   "[allocation]", float, Eigen::bfloat16) {
  const auto in = test::random_inputs<TestType>({1, 300, 4, 24}, 2);
  const test::ThreadScope scope(2);
  const ra::RingDilatedAttentionProduction<TestType> attention(make_config(17));
  auto result = attention.forward_with_lse(in.q, in.k, in.v);
  const ra::Tensor<TestType> expected = result.out;
  const auto forward_bytes = static_cast<std::int64_t>(attention.counters().workspace_bytes);
  ra::Tensor<TestType> grad_q(in.q.shape()), grad_k(in.k.shape()), grad_v(in.v.shape());
  const auto backward = [&] {
    attention.backward(in.q, in.k, in.v, result.out, result.lse, in.q, {grad_q, grad_k, grad_v});
  };
  const std::int64_t held = test::held_by_program();
  backward();
  const auto most = static_cast<std::int64_t>(attention.counters().workspace_bytes);
  constexpr std::int64_t slack = 8192;  // pages that the allocator fills up
  CHECK(forward_bytes > 2 * slack);
  CHECK(test::held_by_program() - held <= most - forward_bytes + slack);
  const auto first = grad_q;
  const std::uint64_t before = test::allocations();
  for (int round = 0; round < 3; ++round) {
    attention.forward(in.q, in.k, in.v, result.out, result.lse);
    backward();
  }
  const std::uint64_t after = test::allocations();
  CHECK(after == before);
  CHECK(test::bitwise_equal(result.out, expected));
  CHECK(test::bitwise_equal(grad_q, first));
}

TEMPLATE_TEST_CASE("where memory runs out, chunks shrink, and the result stays", "[allocation]", float,
                   Eigen::half) {
  const auto in = test::random_inputs<TestType>({1, 400, 4, 24}, 2);
  const test::ThreadScope scope(2);
  const auto untouched = in;
  ra::Tensor<TestType> out(in.q.shape());
  for (const std::uint64_t rules : {3U, 17U, 31U}) {
    const ra::AttentionConfig config = make_config(rules);
    const auto expected =
        ra::RingDilatedAttentionProduction<TestType>(config).forward_with_lse(in.q, in.k, in.v);
    const auto expected_grads =
        ra::RingDilatedAttentionProduction<TestType>(config).backward(in.q, in.k, in.v, expected, in.q);
    int shrunk = 0, refused = 0;
    for (std::size_t limit = std::size_t{1} << 20; limit >= 2048; limit /= 2) {
      const ra::RingDilatedAttentionProduction<TestType> attention(config);
      std::fill_n(out.data(), out.size(), TestType(-3.0F));
      const ra::Tensor<TestType> before = out;
      std::uint64_t denials = 0;
      std::string error;
      try {
        const test::RefuseAllocations refuse(limit);
        try {
          attention.forward(in.q, in.k, in.v, out);
        } catch (...) {
          denials = refuse.refused();
          throw;
        }
        denials = refuse.refused();
      } catch (const ra::OutOfWorkspace& caught) {
        error = caught.what();
      }
      INFO("rules " << rules << ", limit " << limit << ", denials " << denials << ", error '" << error
                    << "'");
      if (error.empty()) {
        shrunk += denials > 0;
        // The same pairs in another grouping: the tolerance of one result against another.
        const auto comparison =
            test::compare_all("out", test::to_float64(std::as_const(out).view()),
                              test::to_float64(expected.out.view()), 2 * test::tolerance_of<TestType>().out);
        INFO(comparison.message());
        CHECK(comparison.passed());
        CHECK(attention.counters().workspace_bytes < limit);
      } else {
        ++refused;
        CHECK(denials > 0);
        CHECK(error.starts_with("no memory for the smallest workspace of this call, "));
        CHECK(test::bitwise_equal(out, before));
        CHECK(attention.counters().forward_calls == 0);
      }
      // As soon as there is memory, the object serves again as if nothing had been.
      attention.forward(in.q, in.k, in.v, out);
      CHECK(test::bitwise_equal(out, expected.out));
    }
    CHECK(shrunk >= 2);
    CHECK(refused >= 1);
    CHECK(test::bitwise_equal(in.q, untouched.q));
    CHECK(test::bitwise_equal(in.k, untouched.k));
    CHECK(test::bitwise_equal(in.v, untouched.v));

    // Gradients and row sums need their memory whatever the chunks are: just above the largest of them.
    const ra::RingDilatedAttentionProduction<TestType> attention(config);
    const std::size_t largest = static_cast<std::size_t>(in.q.size()) * sizeof(float) + 4096;
    ra::Gradients<TestType> grads;
    std::uint64_t denials = 0;
    {
      const test::RefuseAllocations refuse(largest);
      grads = attention.backward(in.q, in.k, in.v, expected, in.q);
      denials = refuse.refused();
    }
    CHECK(denials > 0);
    const auto compare = [&](const char* name, const ra::Tensor<TestType>& a, const ra::Tensor<TestType>& b) {
      const auto reference = test::to_float64(b.view());
      const auto comparison = test::compare_all(name, test::to_float64(std::as_const(a).view()), reference,
                                                2 * test::tolerance_of<TestType>().gradient,
                                                test::gradient_size<TestType>(reference));
      INFO(comparison.message());
      CHECK(comparison.passed());
    };
    compare("grad_q", grads.q, expected_grads.q);
    compare("grad_k", grads.k, expected_grads.k);
    compare("grad_v", grads.v, expected_grads.v);
  }
}

namespace {

ra::AttentionConfig two_mixed_branches(ra::MixGradient mix, std::int64_t ring_size) {
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {20, 90};
  config.dilation_rates = {1, 3};
  config.mix_gradient = mix;
  config.ring_size = ring_size;
  return config;
}

template <class Scalar>
std::int64_t bytes_of(const ra::Gradients<Scalar>& grads) {
  return (grads.q.size() + grads.k.size() + grads.v.size()) * static_cast<std::int64_t>(sizeof(Scalar));
}

template <class Scalar>
void check_same(const ra::Gradients<Scalar>& grads, const ra::Gradients<Scalar>& expected) {
  const auto compare = [](const char* name, const ra::Tensor<Scalar>& a, const ra::Tensor<Scalar>& b) {
    // The same pairs in another grouping: the tolerance of one result against another.
    const auto reference = test::to_float64(b.view());
    const auto comparison =
        test::compare_all(name, test::to_float64(a.view()), reference,
                          2 * test::tolerance_of<Scalar>().gradient, test::gradient_size<Scalar>(reference));
    INFO(comparison.message());
    CHECK(comparison.passed());
  };
  compare("grad_q", grads.q, expected.q);
  compare("grad_k", grads.k, expected.k);
  compare("grad_v", grads.v, expected.v);
}

}  // namespace

TEMPLATE_TEST_CASE("what backward allocates at its peak is what the limit bounds and the counter tells",
                   "[allocation]", float, double, Eigen::half, Eigen::bfloat16) {
  // The plan, and what the allocator adds.
  constexpr std::int64_t slack = 8'000;
  const auto in = test::random_inputs<TestType>({1, 1000, 32, 8}, 8);
  const test::ThreadScope scope(2);
  for (const auto mix : {ra::MixGradient::exact, ra::MixGradient::detached}) {
    for (const std::int64_t ring_size : {1, 6}) {
      const ra::AttentionConfig config = two_mixed_branches(mix, ring_size);
      const auto result =
          ra::RingDilatedAttentionProduction<TestType>(config).forward_with_lse(in.q, in.k, in.v);
      const auto told_with = [&](std::size_t limit) {
        const ra::RingDilatedAttentionProduction<TestType> attention(
            config, ra::ProductionOptions{.workspace_limit_bytes = limit});
        test::reset_peak();
        const auto grads = attention.backward(in.q, in.k, in.v, result, in.q);
        const std::int64_t peak = test::peak_of_program() - bytes_of(grads);
        const auto told = static_cast<std::int64_t>(attention.counters().workspace_bytes);
        INFO("ring " << ring_size << ", detached " << (mix == ra::MixGradient::detached) << ", limit "
                     << limit << ", peak " << peak << ", told " << told);
        CHECK(attention.counters().workspace_bytes <= limit);
        CHECK(peak >= told);
        CHECK(peak <= told + slack);
        return attention.counters().workspace_bytes;
      };
      const std::size_t least = test::named_minimum([&] { (void)told_with(1); });
      const std::size_t most = told_with(std::numeric_limits<std::size_t>::max());
      CHECK(most > least + 3 * slack);
      CHECK(told_with(least) == least);
      for (const std::size_t part : {1, 2, 3, 4}) CHECK(told_with(least + (most - least) * part / 5) < most);
    }
  }
}

TEMPLATE_TEST_CASE("where memory runs out in backward, sums and workspaces shrink up to what rows need",
                   "[allocation]", float, Eigen::bfloat16) {
  // Many rows: what is needed whatever the chunks is mostly numbers per row. Few rows: a tile of 200
  // dimensions.
  const std::vector<ra::Shape> shapes{{1, 2000, 8, 1}, {1, 30, 2, 200}};
  const test::ThreadScope scope(2);
  for (const ra::Shape& shape : shapes) {
    const auto in = test::random_inputs<TestType>(shape, shape[2] / 2);
    for (const auto mix : {ra::MixGradient::exact, ra::MixGradient::detached}) {
      const ra::AttentionConfig config = two_mixed_branches(mix, 1);
      const ra::RingDilatedAttentionProduction<TestType> with_memory(config);
      const auto result = with_memory.forward_with_lse(in.q, in.k, in.v);
      const auto expected = with_memory.backward(in.q, in.k, in.v, result, in.q);
      const auto untouched = in;
      const auto untouched_result = result;
      const auto largest_output = static_cast<std::size_t>(in.q.size()) * sizeof(TestType);
      int shrunk = 0, refused = 0;
      for (std::size_t limit = std::size_t{1} << 22; limit > largest_output; limit -= limit / 5) {
        // A new one, which keeps no memory yet.
        const ra::RingDilatedAttentionProduction<TestType> attention(config);
        ra::Gradients<TestType> grads;
        std::uint64_t denials = 0;
        std::string error;
        try {
          const test::RefuseAllocations refuse(limit);
          try {
            grads = attention.backward(in.q, in.k, in.v, result, in.q);
          } catch (...) {
            denials = refuse.refused();
            throw;
          }
          denials = refuse.refused();
        } catch (const ra::OutOfWorkspace& caught) {
          error = caught.what();
        }
        INFO("tokens " << shape[1] << ", detached " << (mix == ra::MixGradient::detached) << ", limit "
                       << limit << ", denials " << denials << ", error '" << error << "'");
        if (error.empty()) {
          shrunk += denials > 0;
          CHECK(refused == 0);
          check_same(grads, expected);
        } else {
          ++refused;
          CHECK(denials > 0);
          CHECK(error.starts_with("no memory for the smallest workspace of this call, "));
          CHECK(attention.counters().backward_calls == 0);
        }
        // As soon as there is memory, the object serves again as if nothing had been.
        const auto again = attention.backward(in.q, in.k, in.v, result, in.q);
        CHECK(test::bitwise_equal(again.q, expected.q));
        CHECK(test::bitwise_equal(again.k, expected.k));
        CHECK(test::bitwise_equal(again.v, expected.v));
      }
      CHECK(shrunk >= 2);
      CHECK(refused >= 1);
      CHECK(test::bitwise_equal(in.q, untouched.q));
      CHECK(test::bitwise_equal(in.k, untouched.k));
      CHECK(test::bitwise_equal(in.v, untouched.v));
      CHECK(test::bitwise_equal(result.out, untouched_result.out));
      CHECK(test::bitwise_equal(result.lse, untouched_result.lse));
    }
  }
}

TEST_CASE("backward without memory for the smallest workspace says so and can be called again",
          "[allocation]") {
  const auto in = test::random_inputs<float>({1, 30, 2, 200}, 2);
  const ra::RingDilatedAttentionProduction<float> with_memory(make_config(0));
  const auto result = with_memory.forward_with_lse(in.q, in.k, in.v);
  const auto expected = with_memory.backward(in.q, in.k, in.v, result, in.q);
  const ra::RingDilatedAttentionProduction<float> attention(make_config(0));
  bool refused = false;
  try {
    // More than the gradients of 30 tokens need, less than a tile of 200 dimensions.
    const test::RefuseAllocations refuse(60'000);
    (void)attention.backward(in.q, in.k, in.v, result, in.q);
  } catch (const ra::OutOfWorkspace&) {
    refused = true;
  }
  CHECK(refused);
  CHECK(attention.counters().backward_calls == 0);
  const auto again = attention.backward(in.q, in.k, in.v, result, in.q);
  CHECK(test::bitwise_equal(again.q, expected.q));
  CHECK(test::bitwise_equal(again.k, expected.k));
}
