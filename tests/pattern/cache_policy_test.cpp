// suites: compilers
#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <ring_attention/ring_attention.hpp>
#include <set>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/threads.hpp"

namespace ra = ring_attention;

namespace {

using Pattern = ra::PatternCache::Pattern;

ra::AttentionConfig small_config(ra::AttentionConfig config = ra::longnet_preset()) {
  config.segment_lengths = {8, 20};
  config.dilation_rates = {1, 3};
  config.ring_size = 2;
  return config;
}

ra::Tensor<float> numbers(float seed, std::int64_t n = 37) {
  ra::Tensor<float> tensor(2, n, 4, 8);
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    tensor.data()[i] =
        static_cast<float>((i * 7919 + static_cast<std::int64_t>(seed * 104729)) % 257) / 128.0f - 1.0f;
  }
  return tensor;
}

bool bitwise_equal(const ra::Tensor<float>& a, const ra::Tensor<float>& b) {
  return a.shape() == b.shape() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(float)) == 0;
}

/// Looks patterns up as another policy does and notes which objects came back for which key.
template <class Policy>
class Recording {
 public:
  struct Log {
    std::mutex mutex;
    std::map<std::pair<std::int64_t, std::int64_t>, std::set<Pattern>>
        patterns;  // by segment length and offset
    int lookups = 0;
  };

  explicit Recording(Policy policy = Policy()) : policy_(std::move(policy)) {}

  Pattern dilated_indices(const ra::PatternKey& key) const {
    Pattern pattern = policy_.dilated_indices(key);
    const std::lock_guard lock(log_->mutex);
    ++log_->lookups;
    log_->patterns[{key.segment_lengths.at(0), key.offset}].insert(pattern);
    return pattern;
  }

  const Log& log() const { return *log_; }

 private:
  Policy policy_;
  std::shared_ptr<Log> log_ = std::make_shared<Log>();
};

template <class Policy>
using Attention = ra::RingDilatedAttentionV2<float, Recording<Policy>>;

}  // namespace

TEST_CASE("the three policies and a caller's own satisfy the concept, other types do not", "[policy]") {
  STATIC_REQUIRE(ra::PatternCachePolicy<ra::use_pattern_cache>);
  STATIC_REQUIRE(ra::PatternCachePolicy<ra::use_local_cache>);
  STATIC_REQUIRE(ra::PatternCachePolicy<ra::use_no_cache>);
  STATIC_REQUIRE(ra::PatternCachePolicy<Recording<ra::use_no_cache>>);
  STATIC_REQUIRE_FALSE(ra::PatternCachePolicy<int>);
  STATIC_REQUIRE_FALSE(ra::PatternCachePolicy<std::unique_ptr<ra::use_no_cache>>);
}

TEST_CASE("several forward passes of one object use the same pattern objects", "[policy][global]") {
  ra::clear_pattern_cache();
  const Attention<ra::use_pattern_cache> attention(small_config());
  const auto q = numbers(1), k = numbers(2), v = numbers(3);
  for (int pass = 0; pass < 4; ++pass) attention.forward(q, k, v);
  const auto& log = attention.cache_policy().log();
  REQUIRE(log.patterns.size() == 4);  // one for r = 1, three residues of r = 3
  CHECK(log.lookups % 4 == 0);
  CHECK(log.lookups >= 16);
  for (const auto& [key, patterns] : log.patterns) CHECK(patterns.size() == 1);
}

TEST_CASE("two objects use the same pattern objects, those of the global cache", "[policy][global]") {
  ra::clear_pattern_cache();
  const Attention<ra::use_pattern_cache> first(small_config());
  const Attention<ra::use_pattern_cache> second(small_config());
  const auto q = numbers(1), k = numbers(2), v = numbers(3);
  first.forward(q, k, v);
  const auto insertions = ra::get_global_pattern_cache().stats().insertions;
  second.forward(q, k, v);
  CHECK(ra::get_global_pattern_cache().stats().insertions == insertions);
  CHECK(first.cache_policy().log().patterns == second.cache_policy().log().patterns);
  for (const auto& [key, patterns] : first.cache_policy().log().patterns) {
    REQUIRE(patterns.size() == 1);
    // An owner here, one in the other log, one in the cache: the cache holds this very object.
    CHECK(patterns.begin()->use_count() == 3);
  }
}

TEST_CASE("eight threads that begin with an empty cache use the same pattern objects",
          "[policy][global][threads]") {
  const auto q = numbers(1), k = numbers(2), v = numbers(3);
  const auto expected = ra::RingDilatedAttentionV2<float, ra::use_no_cache>(small_config()).forward(q, k, v);
  for (int round = 0; round < 10; ++round) {
    ra::clear_pattern_cache();
    const auto before = ra::get_global_pattern_cache().stats();
    const Attention<ra::use_pattern_cache> first(small_config());
    const Attention<ra::use_pattern_cache> second(small_config());
    std::vector<ra::Tensor<float>> outputs(8);
    test::run_together(8, [&](int thread) {
      const auto& attention = thread % 2 == 0 ? first : second;
      for (int pass = 0; pass < 2; ++pass) {
        outputs[static_cast<std::size_t>(thread)] = attention.forward(q, k, v);
      }
    });
    const auto after = ra::get_global_pattern_cache().stats();
    REQUIRE(after.insertions - before.insertions == 4);
    REQUIRE(first.cache_policy().log().patterns == second.cache_policy().log().patterns);
    for (const auto& [key, patterns] : first.cache_policy().log().patterns) REQUIRE(patterns.size() == 1);
    for (const auto& output : outputs) REQUIRE(bitwise_equal(output, expected));
  }
}

TEST_CASE("a local cache is its object's own", "[policy]") {
  ra::clear_pattern_cache();
  const auto global_before = ra::get_global_pattern_cache().stats();
  const Attention<ra::use_local_cache> first(small_config());
  const Attention<ra::use_local_cache> second(small_config());
  const auto q = numbers(1), k = numbers(2), v = numbers(3);
  for (int pass = 0; pass < 3; ++pass) {
    first.forward(q, k, v);
    second.forward(q, k, v);
  }
  const auto& mine = first.cache_policy().log().patterns;
  const auto& theirs = second.cache_policy().log().patterns;
  REQUIRE(mine.size() == theirs.size());
  for (const auto& [key, patterns] : mine) {
    REQUIRE(patterns.size() == 1);
    CHECK(theirs.at(key).size() == 1);
    CHECK(*patterns.begin() != *theirs.at(key).begin());
    CHECK(**patterns.begin() == **theirs.at(key).begin());
  }
  const auto global_after = ra::get_global_pattern_cache().stats();
  CHECK(global_after.hits + global_after.misses == global_before.hits + global_before.misses);
  CHECK(global_after.entries == 0);
}

TEST_CASE("a copied object starts with an empty local cache", "[policy]") {
  const ra::RingDilatedAttentionV2<float, ra::use_local_cache> original(small_config());
  const auto q = numbers(1);
  original.forward(q, q, q);
  const auto copy = original;
  CHECK(original.cache_policy().stats().entries == 4);
  CHECK(copy.cache_policy().stats().entries == 0);
  copy.forward(q, q, q);
  CHECK(copy.cache_policy().stats().misses == 4);
}

TEST_CASE("use_no_cache computes at every call and leaves the global cache alone", "[policy]") {
  ra::clear_pattern_cache();
  const auto before = ra::get_global_pattern_cache().stats();
  const Attention<ra::use_no_cache> attention(small_config());
  const auto q = numbers(1), k = numbers(2), v = numbers(3);
  for (int pass = 0; pass < 3; ++pass) attention.forward(q, k, v);
  for (const auto& [key, patterns] : attention.cache_policy().log().patterns) CHECK(patterns.size() >= 3);
  const auto after = ra::get_global_pattern_cache().stats();
  CHECK(after.hits == before.hits);
  CHECK(after.misses == before.misses);
  CHECK(after.insertions == before.insertions);
  CHECK(after.entries == 0);
}

TEST_CASE("a cache handed to the constructor is used in place of the global one", "[policy]") {
  ra::clear_pattern_cache();
  const auto before = ra::get_global_pattern_cache().stats();
  ra::PatternCache cache;
  const ra::RingDilatedAttentionV2<float> first(small_config(), ra::use_pattern_cache(cache));
  const ra::RingDilatedAttentionV2<float> second(small_config(), ra::use_pattern_cache(cache));
  const auto q = numbers(1), k = numbers(2), v = numbers(3);
  first.forward(q, k, v);
  CHECK(cache.stats().entries == 4);
  CHECK(cache.stats().misses == 4);
  second.forward(q, k, v);
  CHECK(cache.stats().entries == 4);
  CHECK(cache.stats().misses == 4);
  const auto after = ra::get_global_pattern_cache().stats();
  CHECK(after.hits + after.misses == before.hits + before.misses);
}

TEST_CASE("all policies give bitwise equal results", "[policy]") {
  const auto q = numbers(1), k = numbers(2), v = numbers(3);
  for (const auto& preset : {ra::ring_preset(), ra::longnet_preset(), ra::torchscale_preset()}) {
    for (const bool causal : {false, true}) {
      ra::AttentionConfig config = small_config(preset);
      config.causal = causal;
      ra::PatternCache nothing_fits(0);
      const auto expected = ra::RingDilatedAttentionV2<float>(config).forward_with_lse(q, k, v);
      const auto local =
          ra::RingDilatedAttentionV2<float, ra::use_local_cache>(config).forward_with_lse(q, k, v);
      const auto none = ra::RingDilatedAttentionV2<float, ra::use_no_cache>(config).forward_with_lse(q, k, v);
      const auto unkept = ra::RingDilatedAttentionV2<float>(config, ra::use_pattern_cache(nothing_fits))
                              .forward_with_lse(q, k, v);
      for (const auto* other : {&local, &none, &unkept}) {
        CHECK(bitwise_equal(other->out, expected.out));
        CHECK(bitwise_equal(other->lse, expected.lse));
      }
    }
  }
}

TEST_CASE("clearing and evicting while forward passes run changes no result", "[policy][global][threads]") {
  ra::clear_pattern_cache();
  const auto q = numbers(1), k = numbers(2), v = numbers(3);
  const ra::RingDilatedAttentionV2<float> attention(small_config());
  const auto expected = attention.forward(q, k, v);
  std::vector<int> wrong(4);
  test::run_together(5, [&](int thread) {
    for (int pass = 0; pass < 25; ++pass) {
      if (thread == 4) {
        ra::clear_pattern_cache();
        ra::get_global_pattern_cache().set_byte_limit(pass % 2 == 0 ? 300
                                                                    : ra::PatternCache::default_byte_limit);
      } else {
        wrong[static_cast<std::size_t>(thread)] += !bitwise_equal(attention.forward(q, k, v), expected);
      }
    }
  });
  ra::get_global_pattern_cache().set_byte_limit(ra::PatternCache::default_byte_limit);
  CHECK(wrong == std::vector<int>(4, 0));
}

TEST_CASE("patterns serve another batch, head count and scalar, and not another length", "[policy][global]") {
  ra::clear_pattern_cache();
  const ra::RingDilatedAttentionV2<float> attention(small_config());
  const auto q = numbers(1);
  attention.forward(q, q, q);
  const auto entries = ra::get_global_pattern_cache().stats().entries;
  const ra::Tensor<double> other(1, 37, 8, 24);
  ra::RingDilatedAttentionV2<double>(small_config()).forward(other, other, other);
  CHECK(ra::get_global_pattern_cache().stats().entries == entries);
  const auto longer = numbers(1, 38);
  attention.forward(longer, longer, longer);
  CHECK(ra::get_global_pattern_cache().stats().entries == 2 * entries);
}
