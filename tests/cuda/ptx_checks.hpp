// Checks of the wrappers of instructions, which nvcc compiles.
#pragma once

#include <functional>
#include <string>

namespace test {

/// Told whether something holds, and what.
using Expect = std::function<void(bool, const std::string&)>;

void check_instructions(const Expect& expect);

}  // namespace test
