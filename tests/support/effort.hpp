// How much of its longest lists of cases a test goes through.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace test {

/// Every how many-th case to take: all, unless RING_ATTENTION_TEST_EVERY says otherwise, as tests/run does
/// where another suite takes them all.
inline int every_case() {
  const char* text = std::getenv("RING_ATTENTION_TEST_EVERY");
  const int every = text == nullptr ? 1 : std::atoi(text);
  return every < 1 ? 1 : every;
}

/// Cases from `begin` up to `end`.
struct CaseRange {
  std::uint64_t begin, end;
};

/// Which of `count` random cases to take: all, unless RING_ATTENTION_TEST_THIRD names a third of them (1, 2
/// or 3), as tests/run does, another for each suite.
inline CaseRange random_cases(std::uint64_t count) {
  const char* text = std::getenv("RING_ATTENTION_TEST_THIRD");
  const int third = text == nullptr ? 0 : std::atoi(text);
  if (third < 1 || third > 3) return {0, count};
  const std::uint64_t number = static_cast<std::uint64_t>(third);
  return {(number - 1) * count / 3, number * count / 3};
}

}  // namespace test
