// Checks of calls on a GPU. A failure is a non-zero exit; without a GPU it says so and succeeds.
// usage: gpu_checks [CASES [REPETITIONS]]
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <mutex>

#include "checks.hpp"
#include "ptx_checks.hpp"

namespace test {

namespace {
std::mutex mutex;
int failures = 0;
}  // namespace

void expect(bool holds, const std::string& what) {
  if (holds) return;
  const std::lock_guard lock(mutex);
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

void report(const std::string& name, double value, const std::string& unit) {
  std::printf("measured: %s: %.1f %s\n", name.c_str(), value, unit.c_str());
}

}  // namespace test

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: there is no GPU\n");
    return 0;
  }
  const std::uint64_t cases = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 48;
  const int repetitions = argc > 2 ? std::atoi(argv[2]) : 1000;
  const auto run = [](const char* name, const std::function<void()>& checks) {
    try {
      checks();
    } catch (const std::exception& error) {
      test::expect(false, std::string(name) + ": " + error.what());
    }
    std::printf("%s: done\n", name);
    std::fflush(stdout);
  };
  run("instructions", [] { test::check_instructions(test::expect); });
  run("values", [&] { test::check_values(0, cases); });
  run("calls", test::check_calls);
  if (repetitions > 0) run("repetitions", [&] { test::check_repetitions(repetitions); });
  std::printf("%d failures\n", test::failures);
  return test::failures == 0 ? 0 : 1;
}
