// How much of its longest lists of cases a test goes through.
#pragma once

#include <cstdlib>

namespace test {

/// Every how many-th case to take: all, unless RING_ATTENTION_TEST_EVERY says otherwise, as tests/run does
/// where another suite takes them all.
inline int every_case() {
  const char* text = std::getenv("RING_ATTENTION_TEST_EVERY");
  const int every = text == nullptr ? 1 : std::atoi(text);
  return every < 1 ? 1 : every;
}

}  // namespace test
