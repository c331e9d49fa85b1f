// Copies of patterns on devices, and what the cache tells of them. Numbers stand in for devices' memory.
#include <atomic>
#include <cstddef>
#include <memory>
#include <ring_attention/device_clock.hpp>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/pattern/make_indices.hpp>
#include <ring_attention/pattern/pattern_cache.hpp>
#include <thread>
#include <vector>

#include "support/catch.hpp"

namespace {

namespace ra = ring_attention;

ra::PatternKey copied_key(std::int64_t n) { return {n, {8}, {2}, 0}; }

ra::detail::DeviceCopy copy_of(int number, std::size_t bytes) {
  return {std::make_shared<const int>(number), bytes};
}

int number_in(const ra::detail::DeviceCopy& copy) { return *static_cast<const int*>(copy.memory.get()); }

}  // namespace

TEST_CASE("a pattern has one copy per device", "[cuda][pattern]") {
  const auto pattern = ra::make_indices(copied_key(8));
  auto& copies = pattern->device_copies();
  CHECK(copies.bytes() == 0);
  CHECK(number_in(copies.find_or_make(0, [] { return copy_of(10, 100); })) == 10);
  CHECK(number_in(copies.find_or_make(1, [] { return copy_of(11, 50); })) == 11);
  const ra::detail::DeviceCopy kept = copies.find_or_make(0, [] { return copy_of(12, 1); });
  CHECK(number_in(kept) == 10);
  CHECK(copies.bytes() == 150);

  ra::DilatedIndices other = *pattern;
  CHECK(other.device_copies().bytes() == 0);
  other.device_copies().find_or_make(0, [] { return copy_of(13, 7); });
  other = *pattern;
  CHECK(other.device_copies().bytes() == 0);
  CHECK(copies.bytes() == 150);
}

TEST_CASE("a copy lives as long as its last holder", "[cuda][pattern]") {
  auto pattern = ra::make_indices(copied_key(8));
  std::weak_ptr<const void> watched;
  const auto make = [&] {
    const ra::detail::DeviceCopy copy = copy_of(1, 1);
    watched = copy.memory;
    return copy;
  };
  ra::detail::DeviceCopy held = pattern->device_copies().find_or_make(0, make);
  pattern.reset();
  CHECK(!watched.expired());
  held = {};
  CHECK(watched.expired());
}

TEST_CASE("threads get the same copy", "[cuda][pattern][threads]") {
  for (int round = 0; round < 50; ++round) {
    const auto pattern = ra::make_indices(copied_key(8));
    std::vector<std::thread> threads;
    std::vector<const void*> found(8);
    std::atomic<int> waiting{8};
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&, i] {
        --waiting;
        while (waiting > 0) std::this_thread::yield();
        const int device = i % 2;
        found[static_cast<std::size_t>(i)] =
            pattern->device_copies().find_or_make(device, [i] { return copy_of(i, 3); }).memory.get();
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (std::size_t i = 2; i < 8; ++i) REQUIRE(found[i] == found[i % 2]);
    REQUIRE(found[0] != found[1]);
    REQUIRE(pattern->device_copies().bytes() == 6);
  }
}

TEST_CASE("the cache tells bytes on devices apart", "[cuda][pattern]") {
  ra::PatternCache cache;
  const auto first = cache.find_or_compute(copied_key(8), ra::make_indices);
  cache.find_or_compute(copied_key(16), ra::make_indices)->device_copies().find_or_make(0, [] {
    return copy_of(0, 30);
  });
  const std::size_t bytes = cache.stats().bytes;
  CHECK(cache.stats().device_bytes == 30);
  first->device_copies().find_or_make(3, [] { return copy_of(0, std::size_t{1} << 40); });
  CHECK(cache.stats().device_bytes == 30 + (std::size_t{1} << 40));
  CHECK(cache.stats().bytes == bytes);
  CHECK(cache.stats().evictions == 0);
  cache.clear();
  CHECK(cache.stats().device_bytes == 0);
}

TEST_CASE("the first call on a GPU makes the clock", "[cuda]") {
  struct Clock : ra::detail::DeviceClock {
    double seconds() override { return counted; }
    double counted = 0;
  };
  ra::detail::DeviceClockSlot slot;
  CHECK(slot.seconds() == 0);
  slot.get<Clock>().counted = 2.5;
  CHECK(&slot.get<Clock>() == &slot.get<Clock>());
  CHECK(slot.seconds() == 2.5);
}
