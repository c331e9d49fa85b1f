// What the main functions of the benchmarks have in common.
#pragma once

#include <cstdio>
#include <exception>
#include <set>
#include <string>

#include "../../examples/support/command_line.hpp"

namespace benchmarks {

/// Prints `help` if the command line asks for it, else returns run(arguments); 1, with the reason on standard
/// error, where something throws.
template <class Run>
int run_program(const std::string& name, const char* help, int argc, char** argv,
                const std::set<std::string>& options, std::set<std::string> flags, const Run& run) {
  try {
    flags.insert({"--help", "-h"});
    const command_line::Arguments arguments(argc, argv, options, flags);
    if (!arguments.has("--help") && !arguments.has("-h")) return run(arguments);
    std::fputs(help, stdout);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name.c_str(), error.what());
    return 1;
  }
}

}  // namespace benchmarks
