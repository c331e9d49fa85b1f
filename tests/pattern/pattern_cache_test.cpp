// suites: compilers
#include <atomic>
#include <cstdint>
#include <memory>
#include <ring_attention/pattern/global_cache.hpp>
#include <ring_attention/pattern/pattern_cache.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/error_text.hpp"
#include "support/threads.hpp"

namespace ra = ring_attention;

namespace {

using Pattern = ra::PatternCache::Pattern;

/// Keys of different i are different and their patterns equally large.
ra::PatternKey key_of(std::int64_t i) { return {1000 + i, {64}, {4}, 0}; }

Pattern pattern_of(std::int64_t i) { return ra::make_dilated_indices(key_of(i)); }

std::size_t bytes_per_entry() {
  ra::PatternCache cache;
  cache.put_dilated_indices(key_of(0), pattern_of(0));
  return cache.stats().bytes;
}

/// Asks without changing the order of use: each key once, oldest first, so that the order ends as it was.
std::set<std::int64_t> held(ra::PatternCache& cache, const std::vector<std::int64_t>& oldest_first) {
  std::set<std::int64_t> found;
  for (const std::int64_t i : oldest_first) {
    if (cache.get_dilated_indices(key_of(i))) found.insert(i);
  }
  return found;
}

}  // namespace

TEST_CASE("get returns what put stored, and null for an unknown key", "[cache]") {
  ra::PatternCache cache;
  CHECK(cache.get_dilated_indices(key_of(1)) == nullptr);
  const Pattern pattern = pattern_of(1);
  CHECK(cache.put_dilated_indices(key_of(1), pattern) == pattern);
  CHECK(cache.get_dilated_indices(key_of(1)) == pattern);
  CHECK(cache.get_dilated_indices(key_of(2)) == nullptr);
}

TEST_CASE("a second put returns the canonical object", "[cache]") {
  ra::PatternCache cache;
  const Pattern first = cache.put_dilated_indices(key_of(1), pattern_of(1));
  const Pattern second = cache.put_dilated_indices(key_of(1), pattern_of(1));
  CHECK(first == second);
  CHECK(cache.stats().insertions == 1);
  CHECK(cache.stats().entries == 1);
}

TEST_CASE("find_or_compute computes a key once and then returns the same object", "[cache]") {
  ra::PatternCache cache;
  int computed = 0;
  const auto make = [&computed](const ra::PatternKey& key) {
    ++computed;
    return ra::make_dilated_indices(key);
  };
  const Pattern first = cache.find_or_compute(key_of(1), make);
  CHECK(*first == *pattern_of(1));
  CHECK(cache.find_or_compute(key_of(1), make) == first);
  CHECK(cache.get_dilated_indices(key_of(1)) == first);
  CHECK(computed == 1);
}

TEST_CASE("eight threads that miss one key at once compute it once and get one object", "[cache][threads]") {
  constexpr int threads = 8;
  ra::PatternCache cache;
  std::atomic<int> computed = 0;
  std::vector<Pattern> results(threads);
  test::run_together(threads, [&](int thread) {
    results[static_cast<std::size_t>(thread)] =
        cache.find_or_compute(key_of(1), [&](const ra::PatternKey& key) {
          ++computed;
          // Not before every thread has missed: without a lock held, or nobody else could.
          if (!test::eventually([&] { return cache.stats().misses == threads; })) {
            throw std::runtime_error(
                "make runs while the cache is locked, or a thread found what is not there yet");
          }
          return ra::make_dilated_indices(key);
        });
  });
  CHECK(computed == 1);
  for (const Pattern& result : results) CHECK(result == results[0]);
  CHECK(cache.get_dilated_indices(key_of(1)) == results[0]);
  CHECK(cache.stats().insertions == 1);
}

TEST_CASE("different keys are computed at the same time", "[cache][threads]") {
  constexpr int threads = 4;
  ra::PatternCache cache;
  std::atomic<int> inside = 0;
  test::run_together(threads, [&](int thread) {
    cache.find_or_compute(key_of(thread), [&](const ra::PatternKey& key) {
      ++inside;
      if (!test::eventually([&] { return inside == threads; })) {
        throw std::runtime_error("one computation waits for another");
      }
      return ra::make_dilated_indices(key);
    });
  });
  CHECK(cache.stats().entries == threads);
}

TEST_CASE("threads that race to put one key get one object", "[cache][threads]") {
  for (int round = 0; round < 200; ++round) {
    ra::PatternCache cache;
    std::vector<Pattern> results(8);
    test::run_together(8, [&](int thread) {
      results[static_cast<std::size_t>(thread)] = cache.put_dilated_indices(key_of(1), pattern_of(1));
    });
    for (const Pattern& result : results) REQUIRE(result == results[0]);
    REQUIRE(cache.stats().insertions == 1);
  }
}

TEST_CASE("put and find_or_compute that race agree on one object", "[cache][threads]") {
  for (int round = 0; round < 200; ++round) {
    ra::PatternCache cache;
    std::vector<Pattern> results(8);
    test::run_together(8, [&](int thread) {
      results[static_cast<std::size_t>(thread)] =
          thread % 2 == 0 ? cache.put_dilated_indices(key_of(1), pattern_of(1))
                          : cache.find_or_compute(key_of(1), ra::make_dilated_indices);
    });
    for (const Pattern& result : results) REQUIRE(result == results[0]);
  }
}

TEST_CASE("where make throws, its caller gets the exception and a waiting thread tries next",
          "[cache][threads]") {
  ra::PatternCache cache;
  std::atomic<int> computed = 0;
  std::atomic<int> caught = 0;
  std::vector<Pattern> results(3);
  test::run_together(3, [&](int thread) {
    try {
      results[static_cast<std::size_t>(thread)] =
          cache.find_or_compute(key_of(1), [&](const ra::PatternKey& key) {
            if (!test::eventually([&] { return cache.stats().misses == 3; })) {
              throw std::logic_error("the others did not come to wait");
            }
            if (++computed == 1) throw std::runtime_error("the first attempt fails");
            return ra::make_dilated_indices(key);
          });
    } catch (const std::runtime_error& error) {
      if (std::string(error.what()) == "the first attempt fails") ++caught;
    }
  });
  CHECK(caught == 1);
  CHECK(computed == 2);
  const Pattern stored = cache.get_dilated_indices(key_of(1));
  REQUIRE(stored != nullptr);
  int served = 0;
  for (const Pattern& result : results) served += result == stored;
  CHECK(served == 2);
}

TEST_CASE("a failed computation leaves nothing behind", "[cache]") {
  ra::PatternCache cache;
  const auto fail = [](const ra::PatternKey&) -> Pattern { throw std::runtime_error("no"); };
  CHECK_THROWS_AS(cache.find_or_compute(key_of(1), fail), std::runtime_error);
  CHECK(cache.stats().entries == 0);
  CHECK(cache.stats().bytes == 0);
  CHECK(cache.find_or_compute(key_of(1), ra::make_dilated_indices) != nullptr);
}

TEST_CASE("null patterns are refused", "[cache][errors]") {
  ra::PatternCache cache;
  CHECK(test::error_text([&] { cache.put_dilated_indices(key_of(1), nullptr); }) ==
        "indices = null: a pattern is needed");
  CHECK(test::error_text([&] {
          cache.find_or_compute(key_of(1), [](const ra::PatternKey&) { return Pattern(); });
        }) == "make(key) = null: a pattern is needed");
  CHECK(cache.stats().entries == 0);
}

TEST_CASE("make may use the cache for another key", "[cache]") {
  ra::PatternCache cache;
  const Pattern outer = cache.find_or_compute(key_of(1), [&cache](const ra::PatternKey& key) {
    cache.find_or_compute(key_of(2), ra::make_dilated_indices);
    return ra::make_dilated_indices(key);
  });
  CHECK(cache.get_dilated_indices(key_of(1)) == outer);
  CHECK(cache.get_dilated_indices(key_of(2)) != nullptr);
}

TEST_CASE("the least recently used entry goes first", "[cache][eviction]") {
  ra::PatternCache cache(3 * bytes_per_entry());
  for (const std::int64_t i : {1, 2, 3}) cache.put_dilated_indices(key_of(i), pattern_of(i));
  cache.get_dilated_indices(key_of(1));                 // order of use: 2 3 1
  cache.put_dilated_indices(key_of(4), pattern_of(4));  // 2 goes
  CHECK(held(cache, {2, 3, 1, 4}) == std::set<std::int64_t>{1, 3, 4});
  cache.put_dilated_indices(key_of(3), pattern_of(3));  // a repeated put is a use: 1 4 3
  cache.put_dilated_indices(key_of(5), pattern_of(5));  // 1 goes
  CHECK(held(cache, {1, 4, 3, 5}) == std::set<std::int64_t>{3, 4, 5});
  cache.find_or_compute(key_of(4), ra::make_dilated_indices);  // 3 5 4
  cache.find_or_compute(key_of(6), ra::make_dilated_indices);  // 3 goes
  CHECK(held(cache, {3, 5, 4, 6}) == std::set<std::int64_t>{4, 5, 6});
  CHECK(cache.stats().evictions == 3);
}

TEST_CASE("entries stay within the byte limit, to the byte", "[cache][eviction]") {
  const std::size_t each = bytes_per_entry();
  for (const std::size_t limit : {3 * each - 1, 3 * each, 3 * each + 1}) {
    ra::PatternCache cache(limit);
    CHECK(cache.byte_limit() == limit);
    for (std::int64_t i = 0; i < 10; ++i) {
      cache.put_dilated_indices(key_of(i), pattern_of(i));
      REQUIRE(cache.stats().bytes <= limit);
    }
    CHECK(cache.stats().entries == (limit < 3 * each ? 2 : 3));
  }
}

TEST_CASE("a pattern larger than the limit is returned and not kept", "[cache][eviction]") {
  const std::size_t each = bytes_per_entry();
  ra::PatternCache cache(2 * each);
  const Pattern small = cache.put_dilated_indices(key_of(1), pattern_of(1));
  const ra::PatternKey large_key{100000, {100000}, {1}, 0};
  const Pattern large = cache.find_or_compute(large_key, ra::make_dilated_indices);
  REQUIRE(large != nullptr);
  CHECK(large->rows().size() == 100000);
  CHECK(cache.put_dilated_indices(large_key, large) == large);
  CHECK(cache.get_dilated_indices(large_key) == nullptr);
  CHECK(cache.get_dilated_indices(key_of(1)) == small);  // nothing was dropped in vain
  CHECK(cache.stats().evictions == 0);
}

TEST_CASE("threads that wait for a pattern larger than the limit get it too", "[cache][eviction][threads]") {
  ra::PatternCache cache(0);
  std::atomic<int> computed = 0;
  std::vector<Pattern> results(4);
  test::run_together(4, [&](int thread) {
    results[static_cast<std::size_t>(thread)] =
        cache.find_or_compute(key_of(1), [&](const ra::PatternKey& key) {
          ++computed;
          test::eventually([&] { return cache.stats().misses == 4; });
          return ra::make_dilated_indices(key);
        });
  });
  CHECK(computed == 1);
  REQUIRE(results[0] != nullptr);
  CHECK(*results[0] == *pattern_of(1));
  for (const Pattern& result : results) CHECK(result == results[0]);
  CHECK(cache.stats().entries == 0);
}

TEST_CASE("a lower limit evicts at once, a higher one lets more in", "[cache][eviction]") {
  const std::size_t each = bytes_per_entry();
  ra::PatternCache cache(4 * each);
  for (const std::int64_t i : {1, 2, 3, 4}) cache.put_dilated_indices(key_of(i), pattern_of(i));
  cache.set_byte_limit(2 * each);
  CHECK(held(cache, {1, 2, 3, 4}) == std::set<std::int64_t>{3, 4});
  CHECK(cache.stats().bytes == 2 * each);
  cache.set_byte_limit(5 * each);
  for (const std::int64_t i : {5, 6, 7}) cache.put_dilated_indices(key_of(i), pattern_of(i));
  CHECK(cache.stats().entries == 5);
  cache.set_byte_limit(0);
  CHECK(cache.stats().entries == 0);
  CHECK(cache.stats().bytes == 0);
}

TEST_CASE("a reader keeps its pattern after eviction and after clear", "[cache][eviction]") {
  ra::PatternCache cache(bytes_per_entry());
  const Pattern reader = cache.put_dilated_indices(key_of(1), pattern_of(1));
  cache.put_dilated_indices(key_of(2), pattern_of(2));
  CHECK(cache.get_dilated_indices(key_of(1)) == nullptr);
  CHECK(*reader == *pattern_of(1));

  const Pattern other = cache.get_dilated_indices(key_of(2));
  cache.clear();
  CHECK(cache.get_dilated_indices(key_of(2)) == nullptr);
  CHECK(*other == *pattern_of(2));
  CHECK(other.use_count() == 1);  // the cache let go of it
}

TEST_CASE("clear during a computation leaves the computation's result valid", "[cache]") {
  ra::PatternCache cache;
  const Pattern result = cache.find_or_compute(key_of(1), [&cache](const ra::PatternKey& key) {
    cache.clear();
    return ra::make_dilated_indices(key);
  });
  CHECK(*result == *pattern_of(1));
}

TEST_CASE("statistics add up", "[cache][statistics]") {
  const std::size_t each = bytes_per_entry();
  ra::PatternCache cache(5 * each);
  std::uint64_t lookups = 0;
  std::uint64_t found = 0;
  for (std::int64_t step = 0; step < 500; ++step) {
    const std::int64_t i = step * step % 13;
    if (step % 3 == 0) {
      cache.put_dilated_indices(key_of(i), pattern_of(i));
    } else if (step % 3 == 1) {
      ++lookups;
      found += cache.get_dilated_indices(key_of(i)) != nullptr;
    } else {
      ++lookups;
      bool computed = false;
      cache.find_or_compute(key_of(i), [&computed](const ra::PatternKey& key) {
        computed = true;
        return ra::make_dilated_indices(key);
      });
      found += !computed;
    }
    const ra::PatternCacheStats stats = cache.stats();
    REQUIRE(stats.hits == found);
    REQUIRE(stats.hits + stats.misses == lookups);
    REQUIRE(stats.insertions - stats.evictions == stats.entries);
    REQUIRE(stats.bytes == stats.entries * each);
  }
  CHECK(cache.stats().evictions > 0);
  cache.clear();
  CHECK(cache.stats().entries == 0);
  CHECK(cache.stats().bytes == 0);
  CHECK(cache.stats().hits == found);
  cache.reset_stats();
  const ra::PatternCacheStats reset = cache.stats();
  CHECK(reset.hits + reset.misses + reset.insertions + reset.evictions == 0);
}

TEST_CASE("bytes cover at least what patterns and keys take", "[cache][statistics]") {
  ra::PatternCache cache;
  const ra::PatternKey key{4096, {4096, 512}, {1, 2}, 0};
  const Pattern pattern = cache.find_or_compute(key, ra::make_dilated_indices);
  CHECK(cache.stats().bytes >= (4096 + 256) * sizeof(std::int64_t));
  CHECK(cache.stats().bytes >= pattern->bytes() + sizeof(ra::PatternKey));
}

TEST_CASE("statistics and contents stay consistent under eight threads that evict and clear",
          "[cache][threads]") {
  const std::size_t each = bytes_per_entry();
  ra::PatternCache cache(6 * each);
  constexpr int threads = 8;
  constexpr int steps = 1500;
  std::atomic<int> wrong = 0;
  std::atomic<std::uint64_t> lookups = 0;
  test::run_together(threads, [&](int thread) {
    for (int step = 0; step < steps; ++step) {
      const std::int64_t i = (step * 7 + thread * 5) % 11;
      Pattern pattern;
      switch ((step + thread) % 4) {
        case 0:
          pattern = cache.get_dilated_indices(key_of(i));
          ++lookups;
          break;
        case 1:
          pattern = cache.put_dilated_indices(key_of(i), pattern_of(i));
          break;
        default:
          pattern = cache.find_or_compute(key_of(i), ra::make_dilated_indices);
          ++lookups;
      }
      if (thread == 0 && step % 100 == 99) cache.clear();
      if (thread == 1 && step % 50 == 49) cache.set_byte_limit((3 + step % 5) * each);
      if (pattern && !(*pattern == *pattern_of(i))) ++wrong;
    }
  });
  const ra::PatternCacheStats stats = cache.stats();
  CHECK(wrong == 0);
  CHECK(stats.hits + stats.misses == lookups);
  CHECK(stats.bytes == stats.entries * each);
  CHECK(stats.bytes <= cache.byte_limit());
  cache.clear();
  CHECK(cache.stats().bytes == 0);
}

TEST_CASE("the global cache is one object, and clear_pattern_cache empties it", "[cache][global]") {
  ra::PatternCache& cache = ra::get_global_pattern_cache();
  std::vector<const void*> addresses(8);
  test::run_together(
      8, [&](int thread) { addresses[static_cast<std::size_t>(thread)] = &ra::get_global_pattern_cache(); });
  for (const void* address : addresses) CHECK(address == &cache);

  const Pattern pattern = cache.find_or_compute(key_of(1), ra::make_dilated_indices);
  CHECK(ra::get_global_pattern_cache().get_dilated_indices(key_of(1)) == pattern);
  ra::clear_pattern_cache();
  CHECK(cache.stats().entries == 0);
  CHECK(cache.stats().bytes == 0);
  CHECK(*pattern == *pattern_of(1));
}
