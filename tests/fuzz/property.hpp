// How a fuzz target says that a property does not hold: the process ends, and libFuzzer keeps the input.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

namespace fuzz {

inline void require(bool holds, const std::string& property) {
  if (holds) return;
  std::fprintf(stderr, "property broken: %s\n", property.c_str());
  std::abort();
}

}  // namespace fuzz
