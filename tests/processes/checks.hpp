// What each check of a process prints and returns. Checks run in a process of their own, without the test
// framework: they fork, change limits and masks, and end in unusual ways.
#pragma once

#include <cstdio>

namespace test {

constexpr int passed = 0, failed = 1;

inline int fail(const char* what) {
  std::fprintf(stderr, "FAIL  %s\n", what);
  return failed;
}

inline int skip(const char* why) {
  std::printf("skipped: %s\n", why);
  return passed;
}

int check_fork(int threads, int children);
int check_fork_within_loop();
int check_signals();
int check_affinity();
int check_no_threads();
int check_quota();
int check_end();

}  // namespace test
