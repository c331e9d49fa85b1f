// One computation, several classes: equal results for every ring size, layout and class, the same bits when
// repeated, and the same pattern objects.
#include <cstddef>
#include <cstdint>
#include <ring_attention/attention/ring_dilated_attention_production.hpp>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <ring_attention/attention/true_ring_dilated_attention.hpp>
#include <ring_attention/pattern/global_cache.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/compare.hpp"
#include "support/distributed.hpp"
#include "support/random.hpp"
#include "support/random_case.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

ra::AttentionConfig make_config(std::uint64_t rules) {
  ra::AttentionConfig config;
  test::set_rules(config, rules);
  config.segment_lengths = {23, 60, 150};
  config.dilation_rates = {1, 3, 4};
  return config;
}

template <class Scalar>
struct Everything {
  ra::AttentionResult<Scalar> result;
  ra::Gradients<Scalar> grads;

  bool same_bits(const Everything& other) const {
    return test::bitwise_equal(result.out, other.result.out) &&
           test::bitwise_equal(result.lse, other.result.lse) && test::bitwise_equal(grads.q, other.grads.q) &&
           test::bitwise_equal(grads.k, other.grads.k) && test::bitwise_equal(grads.v, other.grads.v);
  }

  /// Two results that are each within the tolerance of the truth differ by at most twice that.
  std::string differences(const Everything& other) const {
    const auto tolerance = test::tolerance_of<Scalar>();
    std::string text;
    const auto compare = [&](const char* name, const auto& a, const auto& b, double allowed) {
      const auto comparison =
          test::compare_all(name, test::to_float64(a.view()), test::to_float64(b.view()), 2 * allowed);
      if (!comparison.passed()) text += comparison.message() + '\n';
    };
    compare("out", result.out, other.result.out, tolerance.out);
    compare("lse", result.lse, other.result.lse, tolerance.lse);
    compare("grad_q", grads.q, other.grads.q, tolerance.gradient);
    compare("grad_k", grads.k, other.grads.k, tolerance.gradient);
    compare("grad_v", grads.v, other.grads.v, tolerance.gradient);
    return text;
  }
};

template <class Attention, class Scalar>
Everything<Scalar> run(const Attention& attention, const test::CallInputs<Scalar>& in,
                       const ra::Tensor<Scalar>& grad_out) {
  Everything<Scalar> all;
  all.result = attention.forward_with_lse(in.q, in.k, in.v, ra::ForwardOptions{.lengths = {151, 77}});
  all.grads = attention.backward(in.q, in.k, in.v, all.result, grad_out,
                                 ra::BackwardOptions{.lengths = {151, 77}, .grad_lse = {}});
  return all;
}

}  // namespace

TEMPLATE_TEST_CASE("results do not depend on ring size, layout or class, and repeat bit by bit",
                   "[attention][repeatability]", float, double) {
  const test::ThreadScope threads(2);
  const auto in = test::random_inputs<TestType>({2, 151, 4, 16}, 2);
  const auto grad_out = test::random_tensor<TestType>({2, 151, 4, 16}, 99);
  for (std::uint64_t rules = 0; rules < test::rule_combinations; ++rules) {
    ra::AttentionConfig config = make_config(rules);
    if (rules % 3 == 0) config.mix_gradient = ra::MixGradient::detached;
    const auto reference = run(ra::RingDilatedAttentionV2<TestType>(config), in, grad_out);
    for (const std::int64_t ring_size : {2, 5, 8}) {
      const bool zigzag = test::Random(rules * 10 + static_cast<std::uint64_t>(ring_size)).chance(0.5);
      config.ring_size = ring_size;
      config.shard_layout = zigzag ? ra::ShardLayout::zigzag : ra::ShardLayout::contiguous;
      const auto check = [&](const char* name, const auto& attention) {
        INFO(name << ", rules " << rules << ", ring size " << ring_size << ", zigzag " << zigzag);
        const auto first = run(attention, in, grad_out);
        const std::string differences = first.differences(reference);
        INFO(differences);
        CHECK(differences.empty());
        CHECK(run(attention, in, grad_out).same_bits(first));
      };
      check("V2", ra::RingDilatedAttentionV2<TestType>(config));
      check("Production", ra::RingDilatedAttentionProduction<TestType>(config));
      check("TrueRing", ra::TrueRingDilatedAttention<TestType>(config));
      check("Distributed", test::DistributedOnThreads<TestType>(config));
    }
  }
}

TEMPLATE_TEST_CASE("TrueRing and the distributed class run the same code: the same bits",
                   "[attention][repeatability]", float, Eigen::bfloat16) {
  const test::ThreadScope threads(1);
  const auto in = test::random_inputs<TestType>({2, 151, 4, 16}, 2);
  const auto grad_out = test::random_tensor<TestType>({2, 151, 4, 16}, 99);
  for (std::uint64_t rules = 0; rules < test::rule_combinations; rules += 5) {
    ra::AttentionConfig config = make_config(rules);
    config.ring_size = 4;
    config.shard_layout = rules % 2 == 0 ? ra::ShardLayout::contiguous : ra::ShardLayout::zigzag;
    INFO("rules " << rules);
    CHECK(run(ra::TrueRingDilatedAttention<TestType>(config), in, grad_out)
              .same_bits(run(test::DistributedOnThreads<TestType>(config), in, grad_out)));
  }
}

TEST_CASE("every policy gives the same bits in every class", "[attention][repeatability]") {
  const auto in = test::random_inputs<float>({2, 151, 4, 16}, 2);
  const auto grad_out = test::random_tensor<float>({2, 151, 4, 16}, 99);
  ra::AttentionConfig config = make_config(31);
  config.ring_size = 3;
  const auto check = [&](const auto& cached, const auto& local, const auto& uncached) {
    const auto first = run(cached, in, grad_out);
    CHECK(run(local, in, grad_out).same_bits(first));
    CHECK(run(uncached, in, grad_out).same_bits(first));
  };
  using ra::use_local_cache, ra::use_no_cache;
  using Thread = ra::ThreadCommunicator;
  check(ra::RingDilatedAttentionV2<float>(config), ra::RingDilatedAttentionV2<float, use_local_cache>(config),
        ra::RingDilatedAttentionV2<float, use_no_cache>(config));
  check(ra::RingDilatedAttentionProduction<float>(config),
        ra::RingDilatedAttentionProduction<float, use_local_cache>(config),
        ra::RingDilatedAttentionProduction<float, use_no_cache>(config));
  check(ra::TrueRingDilatedAttention<float>(config),
        ra::TrueRingDilatedAttention<float, use_local_cache>(config),
        ra::TrueRingDilatedAttention<float, use_no_cache>(config));
  check(test::DistributedOnThreads<float>(config),
        test::DistributedOnThreads<float, Thread, use_local_cache>(config),
        test::DistributedOnThreads<float, Thread, use_no_cache>(config));
}

TEST_CASE("classes of one configuration share their pattern objects", "[attention][cache]") {
  const auto in = test::random_inputs<float>({2, 151, 4, 16}, 2);
  const auto grad_out = test::random_tensor<float>({2, 151, 4, 16}, 99);
  ra::AttentionConfig config = make_config(1);
  config.offset_rule = ra::OffsetRule::by_head;
  config.ring_size = 3;
  ra::PatternCache& cache = ra::get_global_pattern_cache();
  ra::clear_pattern_cache();
  (void)run(ra::RingDilatedAttentionV2<float>(config), in, grad_out);
  // The keys that LongNet's rules lead to, for the lengths 151 and 77 of run().
  std::vector<std::pair<ra::PatternKey, ra::PatternCache::Pattern>> patterns;
  for (const std::int64_t n : {151, 77}) {
    for (std::size_t i = 0; i < config.segment_lengths.size(); ++i) {
      for (std::int64_t offset = 0; offset < config.dilation_rates[i]; ++offset) {
        const ra::PatternKey key{
            n, {std::min(config.segment_lengths[i], n)}, {config.dilation_rates[i]}, offset};
        patterns.emplace_back(key, cache.get_dilated_indices(key));
        REQUIRE(patterns.back().second);
      }
    }
  }
  const auto entries = cache.stats().entries;
  CHECK(entries == patterns.size());
  const auto insertions = cache.stats().insertions;
  (void)run(ra::RingDilatedAttentionProduction<float>(config), in, grad_out);
  (void)run(ra::TrueRingDilatedAttention<float>(config), in, grad_out);
  (void)run(test::DistributedOnThreads<float>(config), in, grad_out);
  (void)run(ra::RingDilatedAttentionV2<float>(config), in, grad_out);
  CHECK(cache.stats().insertions == insertions);
  CHECK(cache.stats().entries == entries);
  for (const auto& [key, pattern] : patterns) {
    CHECK(cache.get_dilated_indices(key) == pattern);
    CHECK(pattern.use_count() == 2);  // this list and the cache: nobody else has a copy or keeps it
  }
  const ra::RingDilatedAttentionProduction<float> keeps(config);
  (void)run(keeps, in, grad_out);
  for (const auto& [key, pattern] : patterns) CHECK(pattern.use_count() > 2);  // in the plan of its workspace
}
