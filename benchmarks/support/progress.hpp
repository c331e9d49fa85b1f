// Dots on standard error while long measurements run, on a line of their own.
#pragma once

#include <cstdio>
#include <utility>

namespace benchmarks {

inline bool& line_is_open() {
  static bool open = false;
  return open;
}

/// One dot for each long measurement: the lines of interleaved cases come together at their end.
inline void show_life() {
  std::fputc('.', stderr);
  line_is_open() = true;
}

inline void end_open_line() {
  if (std::exchange(line_is_open(), false)) std::fputc('\n', stderr);
}

}  // namespace benchmarks
