// A program's signals reach the program's threads only.
#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cstdint>
#include <ctime>
#include <set>
#include <thread>

#include "processes/calls.hpp"
#include "processes/checks.hpp"
#include "processes/tasks.hpp"

namespace {

constexpr std::uint64_t bit_of(int signal) { return std::uint64_t{1} << (signal - 1); }
/// These cannot be blocked; the C library keeps 32 and 33 for itself.
constexpr std::uint64_t not_blockable = bit_of(SIGKILL) | bit_of(SIGSTOP) | bit_of(32) | bit_of(33);

bool blocks_everything(std::uint64_t blocked) { return (blocked | not_blockable) == ~std::uint64_t{0}; }

/// Threads that are none of `known`: how many were seen, and whether one of them takes a signal.
struct Seen {
  std::set<pid_t> tasks;
  bool takes_signals = false;

  void look(const std::set<pid_t>& known) {
    for (const pid_t task : test::tasks()) {
      if (known.contains(task)) continue;
      const auto blocked = test::blocked_signals(task);
      if (!blocked) continue;
      tasks.insert(task);
      takes_signals = takes_signals || !blocks_everything(*blocked);
    }
  }
};

}  // namespace

int test::check_signals() {
  sigset_t before, after, waited_for;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  if (!threads_meet(4)) return fail("there are no threads");
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (int signal = 1; signal < 32; ++signal) {
    if (sigismember(&before, signal) != sigismember(&after, signal))
      return fail("the caller's mask has changed");
  }

  Seen workers;
  workers.look({this_task()});
  if (workers.tasks.size() != 3) return fail("the system does not list the pool's threads");
  if (workers.takes_signals) return fail("a thread of the pool takes signals");

  // The members of a ring, which live as long as a call.
  std::set<pid_t> known = workers.tasks;
  known.insert(this_task());
  std::atomic<pid_t> caller{0};
  std::atomic<bool> enough{false};
  std::thread calling([&] {
    const Inputs in({1, 2048, 4, 16});
    const ra::TrueRingDilatedAttention<float> ring(small_config(4));
    caller = this_task();
    while (!enough) ring.forward(in.q, in.k, in.v);
  });
  comes_true([&] { return caller != 0; });
  known.insert(caller);
  Seen members;
  const bool seen = comes_true([&] {
    members.look(known);
    return members.tasks.size() >= 6;
  });
  enough = true;
  calling.join();
  if (!seen) return fail("the members of a ring were not seen");
  if (members.takes_signals) return fail("a member of a ring takes signals");

  // What programs do: block a signal after the library made its threads, and wait for it.
  sigemptyset(&waited_for);
  sigaddset(&waited_for, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &waited_for, nullptr);
  for (int round = 0; round < 100; ++round) {
    if (::kill(::getpid(), SIGUSR1) != 0) return fail("kill");
    const timespec longest{10, 0};
    if (::sigtimedwait(&waited_for, nullptr, &longest) != SIGUSR1) return fail("the signal did not arrive");
  }
  return passed;
}
