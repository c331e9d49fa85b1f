// Threads of the library do not keep a process from ending.
#include <thread>

#include "processes/calls.hpp"
#include "processes/checks.hpp"

int test::check_end() {
  if (!threads_meet(4)) return fail("there are no threads");
  static std::atomic<int> busy{0};  // threads outlive this function
  std::thread([] {
    ra::detail::parallel_for(4, 4, [](std::int64_t, int) {
      ++busy;
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    });
  }).detach();
  // Returns, and so leaves main, while workers are idle and busy.
  return comes_true([] { return busy >= 2; }) ? passed : fail("no loop is under way");
}
