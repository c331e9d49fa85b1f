// suites: compilers
#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <mutex>
#include <ring_attention/cpu/backward_units.hpp>
#include <ring_attention/parallel.hpp>
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

/// Sets the number of threads for one test.
class NumThreads {
 public:
  explicit NumThreads(int count) : before_(ra::num_threads()) { ra::set_num_threads(count); }
  ~NumThreads() { ra::set_num_threads(before_); }
  NumThreads(const NumThreads&) = delete;
  NumThreads& operator=(const NumThreads&) = delete;

 private:
  int before_;
};

}  // namespace

TEST_CASE("set_num_threads takes positive numbers and refuses others", "[parallel]") {
  const NumThreads restore(3);
  CHECK(ra::num_threads() == 3);
  CHECK(test::error_text([] { ra::set_num_threads(0); }) == "num_threads = 0: must be positive");
  CHECK(test::error_text([] { ra::set_num_threads(-4); }) == "num_threads = -4: must be positive");
  CHECK(ra::num_threads() == 3);
}

#if defined(__linux__)
TEST_CASE("available cores are those of the process, also for a thread that is pinned to one", "[parallel]") {
  const int of_process = ra::detail::available_cores();
  int counted = 0, own = 0;
  std::thread([&] {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    if (sched_getaffinity(0, sizeof mask, &mask) != 0) return;
    int core = 0;
    while (!CPU_ISSET(core, &mask)) ++core;
    CPU_ZERO(&mask);
    CPU_SET(core, &mask);
    if (sched_setaffinity(0, sizeof mask, &mask) != 0) return;
    counted = ra::detail::available_cores();
    ra::detail::use_available_cores();
    if (sched_getaffinity(0, sizeof mask, &mask) == 0) own = CPU_COUNT(&mask);
  }).join();
  CHECK(counted == of_process);
  CHECK(own >= of_process);  // a quota may allow less than the mask
}
#endif

TEST_CASE("every index is visited once whatever the counts", "[parallel]") {
  for (const int threads : {1, 2, 3, 8}) {
    const NumThreads restore(threads);
    for (const std::int64_t count : {0, 1, 2, 3, 7, 8, 9, 1000}) {
      std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
      std::atomic<int> bad_workers = 0;
      ra::detail::parallel_for(count, [&](std::int64_t index, int worker) {
        ++visits[static_cast<std::size_t>(index)];
        if (worker < 0 || worker >= threads) ++bad_workers;
      });
      INFO("threads " << threads << ", count " << count);
      REQUIRE(bad_workers == 0);
      for (const auto& visit : visits) REQUIRE(visit == 1);
    }
  }
}

TEST_CASE("no two bodies run at once as the same worker", "[parallel][threads]") {
  const NumThreads restore(4);
  std::vector<std::atomic<int>> busy(4);
  std::atomic<int> clashes = 0;
  for (int round = 0; round < 50; ++round) {
    ra::detail::parallel_for(200, [&](std::int64_t, int worker) {
      auto& mine = busy[static_cast<std::size_t>(worker)];
      if (mine.fetch_add(1) != 0) ++clashes;
      std::this_thread::yield();
      mine.fetch_sub(1);
    });
  }
  CHECK(clashes == 0);
}

TEST_CASE("a loop uses as many threads as it is told", "[parallel][threads]") {
  const NumThreads restore(4);
  std::atomic<int> inside = 0;
  std::mutex mutex;
  std::set<std::thread::id> threads;
  std::atomic<bool> met = true;
  ra::detail::parallel_for(4, [&](std::int64_t, int) {
    {
      const std::lock_guard lock(mutex);
      threads.insert(std::this_thread::get_id());
    }
    ++inside;
    if (!test::eventually([&] { return inside == 4; })) met = false;
  });
  CHECK(met);
  CHECK(threads.size() == 4);
}

TEST_CASE("one thread means the caller's", "[parallel]") {
  const NumThreads restore(1);
  const auto caller = std::this_thread::get_id();
  std::int64_t expected = 0;
  bool right = true;
  ra::detail::parallel_for(100, [&](std::int64_t index, int worker) {
    right = right && std::this_thread::get_id() == caller && worker == 0 && index == expected++;
  });
  CHECK(right);
  CHECK(expected == 100);
}

TEST_CASE("an exception of a body reaches the caller, and the next loop works", "[parallel][threads]") {
  for (const int threads : {1, 4}) {
    const NumThreads restore(threads);
    for (int round = 0; round < 50; ++round) {
      std::string text;
      try {
        ra::detail::parallel_for(100, [&](std::int64_t index, int) {
          if (index == round) throw std::runtime_error("index " + std::to_string(index));
        });
      } catch (const std::runtime_error& error) {
        text = error.what();
      }
      REQUIRE(text == "index " + std::to_string(round));
    }
    std::atomic<int> sum = 0;
    ra::detail::parallel_for(10, [&](std::int64_t index, int) { sum += static_cast<int>(index); });
    REQUIRE(sum == 45);
  }
}

TEST_CASE("after an exception no further bodies start", "[parallel][threads]") {
  const NumThreads restore(4);
  std::atomic<bool> thrown = false;
  std::atomic<int> started = 0;
  const auto body = [&](std::int64_t index, int) {
    ++started;
    if (index == 0) {
      thrown = true;
      throw std::runtime_error("the first body fails");
    }
    test::eventually([&] { return thrown.load(); });
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  };
  CHECK_THROWS_AS(ra::detail::parallel_for(3000, body), std::runtime_error);
  CHECK(started < 3000);
}

TEST_CASE("bodies that all throw give one exception", "[parallel][threads]") {
  const NumThreads restore(4);
  for (int round = 0; round < 50; ++round) {
    CHECK_THROWS_AS(
        ra::detail::parallel_for(100, [](std::int64_t, int) { throw std::out_of_range("each body"); }),
        std::out_of_range);
  }
}

TEST_CASE("loops nest", "[parallel][threads]") {
  const NumThreads restore(4);
  std::atomic<std::int64_t> sum = 0;
  ra::detail::parallel_for(8, [&](std::int64_t i, int) {
    ra::detail::parallel_for(8, [&](std::int64_t j, int) {
      ra::detail::parallel_for(4, [&](std::int64_t k, int) { sum += i * 100 + j * 10 + k; });
    });
  });
  // Each of i and j runs over 0..7, k over 0..3: sums 28 * 32, 28 * 32 and 6 * 64.
  CHECK(sum == 100 * 28 * 32 + 10 * 28 * 32 + 6 * 64);
}

TEST_CASE("an exception of an inner loop goes through the outer one", "[parallel][threads]") {
  const NumThreads restore(4);
  CHECK_THROWS_AS(ra::detail::parallel_for(8,
                                           [](std::int64_t i, int) {
                                             ra::detail::parallel_for(8, [i](std::int64_t j, int) {
                                               if (i == 3 && j == 5) throw std::domain_error("inner");
                                             });
                                           }),
                  std::domain_error);
}

TEST_CASE("several callers run loops at the same time", "[parallel][threads]") {
  const NumThreads restore(3);
  std::vector<std::int64_t> sums(8);
  test::run_together(8, [&](int caller) {
    for (int round = 0; round < 50; ++round) {
      std::atomic<std::int64_t> sum = 0;
      ra::detail::parallel_for(100, [&](std::int64_t index, int) { sum += index; });
      sums[static_cast<std::size_t>(caller)] += sum;
    }
  });
  CHECK(sums == std::vector<std::int64_t>(8, 50 * 4950));
}

TEST_CASE("results of bodies are visible to the caller after the loop", "[parallel][threads]") {
  const NumThreads restore(4);
  for (int round = 0; round < 200; ++round) {
    std::vector<int> values(64);  // not atomic: the loop's end must order the writes
    ra::detail::parallel_for(
        64, [&](std::int64_t index, int) { values[static_cast<std::size_t>(index)] = round; });
    REQUIRE(values == std::vector<int>(64, round));
  }
}

TEST_CASE("the number of threads may change while loops run", "[parallel][threads]") {
  const NumThreads restore(2);
  std::vector<std::int64_t> sums(3);
  test::run_together(4, [&](int thread) {
    for (int round = 0; round < 200; ++round) {
      if (thread == 3) {
        ra::set_num_threads(1 + round % 6);
        continue;
      }
      std::atomic<std::int64_t> sum = 0;
      ra::detail::parallel_for(20, [&](std::int64_t index, int) { sum += index; });
      sums[static_cast<std::size_t>(thread)] += sum;
    }
  });
  CHECK(sums == std::vector<std::int64_t>(3, 200 * 190));
}

namespace {

std::vector<ra::engine::BackwardUnit> long_units(std::size_t count) {
  return std::vector<ra::engine::BackwardUnit>(count, {0, 0, 0, 0, 0, 1000, 0, 1000});
}

template <class Body>
void run_in_turns(const std::vector<ra::engine::BackwardUnit>& units, std::int64_t parts, int threads,
                  const Body& body) {
  std::vector<std::atomic<int>> turns(2 * units.size() * static_cast<std::size_t>(parts));
  for (auto& turn : turns) turn = 7;  // from a call before
  ra::engine::run_in_turns(units, parts, turns.data(), threads, body);
}

}  // namespace

TEST_CASE("pieces of backward meet every pair of parts once, in one order for each part", "[parallel]") {
  for (const std::int64_t parts : {1, 2, 4, 16}) {
    for (const int threads : {1, 3, 16}) {
      INFO(parts << " parts, " << threads << " threads");
      // By part: the parts of the other side that it met, in order. A turn is all that guards them.
      std::vector<std::vector<std::int64_t>> of_queries(static_cast<std::size_t>(3 * parts)),
          of_keys = of_queries;
      auto units = long_units(3);
      for (std::size_t i = 0; i < units.size(); ++i) units[i].item = static_cast<std::int64_t>(i);
      run_in_turns(units, parts, threads, [&](const ra::engine::BackwardUnit& piece, int) {
        const std::int64_t query = (piece.query_begin * parts + 999) / 1000,
                           key = (piece.key_begin * parts + 999) / 1000;
        of_queries[static_cast<std::size_t>(piece.item * parts + query)].push_back(key);
        of_keys[static_cast<std::size_t>(piece.item * parts + key)].push_back(query);
      });
      for (std::int64_t i = 0; i < 3 * parts; ++i) {
        const std::int64_t own = i % parts;
        std::vector<std::int64_t> expected;
        for (std::int64_t round = 0; round < parts; ++round)
          expected.push_back((round - own + parts) % parts);
        CHECK(of_queries[static_cast<std::size_t>(i)] == expected);
        CHECK(of_keys[static_cast<std::size_t>(i)] == expected);
      }
    }
  }
}

TEST_CASE("a piece of backward that throws ends the loop, whoever waits for it", "[parallel]") {
  const auto units = long_units(3);
  for (int failing = 1; failing <= 768; failing += 19) {
    std::atomic<int> pieces{0};
    std::string told;
    try {
      run_in_turns(units, 16, 16, [&](const ra::engine::BackwardUnit&, int) {
        if (++pieces == failing) throw std::runtime_error("piece");
      });
    } catch (const std::runtime_error& error) {
      told = error.what();
    }
    CHECK(told == "piece");
  }
}

TEST_CASE("pieces of backward may run in many callers at once and hold loops", "[parallel]") {
  std::atomic<int> bodies{0};
  test::run_together(6, [&](int) {
    for (int repetition = 0; repetition < 10; ++repetition) {
      run_in_turns(long_units(3), 8, 9, [&](const ra::engine::BackwardUnit&, int) {
        ra::detail::parallel_for(4, 3, [&](std::int64_t, int) { ++bodies; });
      });
    }
  });
  CHECK(bodies == 6 * 10 * 3 * 64 * 4);
}
