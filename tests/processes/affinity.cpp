// A thread that is pinned to one core pins nobody else.
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <set>
#include <thread>

#include "processes/calls.hpp"
#include "processes/checks.hpp"
#include "processes/tasks.hpp"

namespace {

int cores_of(pid_t task) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  return ::sched_getaffinity(task, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : 0;
}

bool pin_to_one_core() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (::sched_getaffinity(0, sizeof mask, &mask) != 0) return false;
  int core = 0;
  while (!CPU_ISSET(core, &mask)) ++core;
  CPU_ZERO(&mask);
  CPU_SET(core, &mask);
  return ::sched_setaffinity(0, sizeof mask, &mask) == 0;
}

int check_from_pinned_thread(int cores) {
  using namespace test;
  const pid_t self = this_task();
  if (cores_of(self) != 1) return skip("threads cannot be pinned here");
  const int quota = ra::detail::cpu_quota();
  if (ra::num_threads() != std::min(cores, quota))
    return fail("num_threads() is that of the thread that asked");

  std::atomic<int> pinned{0}, others{0};
  std::atomic<int> inside{0};
  ra::detail::parallel_for(4, 4, [&](std::int64_t, int) {
    ++inside;
    comes_true([&] { return inside == 4; });
    if (this_task() == self) return;
    ++others;
    if (cores_of(0) != cores) ++pinned;
  });
  if (others != 3) return fail("there are no threads");
  if (pinned != 0) return fail("the pool's threads are on the core of the thread that made them");

  std::set<pid_t> known = tasks();
  std::atomic<bool> enough{false};
  std::atomic<pid_t> caller{0};
  std::thread calling([&] {  // pinned as its maker is
    const Inputs in({1, 2048, 4, 16});
    const ra::TrueRingDilatedAttention<float> ring(small_config(4));
    caller = this_task();
    while (!enough) ring.forward(in.q, in.k, in.v);
  });
  comes_true([&] { return caller != 0; });
  known.insert(caller);
  std::set<pid_t> free_members;
  const bool seen = comes_true([&] {
    for (const pid_t task : tasks()) {
      if (!known.contains(task) && cores_of(task) == cores) free_members.insert(task);
    }
    return free_members.size() >= 3;
  });
  enough = true;
  calling.join();
  return seen ? passed : fail("a ring's members are on the core of the thread that made them");
}

}  // namespace

int test::check_affinity() {
  const int cores = cores_of(::getpid());
  if (cores < 2) return skip("this process may use one core");
  int result = failed;
  std::thread([&] {
    result = pin_to_one_core() ? check_from_pinned_thread(cores) : skip("no affinity");
  }).join();
  return result;
}
