// usage: process_checks CHECK [ARGUMENTS]; one check a process.
#include <cstdlib>
#include <string>

#include "processes/checks.hpp"

int main(int argc, char** argv) {
  const std::string check = argc > 1 ? argv[1] : "";
  if (check == "fork" && argc == 4) return test::check_fork(std::atoi(argv[2]), std::atoi(argv[3]));
  if (check == "fork_within_loop") return test::check_fork_within_loop();
  if (check == "signals") return test::check_signals();
  if (check == "affinity") return test::check_affinity();
  if (check == "no_threads") return test::check_no_threads();
  if (check == "quota") return test::check_quota();
  if (check == "end") return test::check_end();
  std::fprintf(stderr,
               "usage: process_checks fork THREADS CHILDREN | fork_within_loop | signals | affinity | "
               "no_threads | quota | end\n");
  return 2;
}
