// Where the system grants no more threads.
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "processes/calls.hpp"
#include "processes/checks.hpp"

namespace {

/// How many threads the system grants, tried out.
int threads_granted() {
  std::atomic<bool> end{false};
  std::vector<std::thread> threads;
  threads.reserve(16);
  try {
    while (threads.size() < 16) threads.emplace_back([&end] { end.wait(false); });
  } catch (const std::system_error&) {
  }
  end = true;
  end.notify_all();
  for (std::thread& thread : threads) thread.join();
  return static_cast<int>(threads.size());
}

/// As `ulimit -u`, which does not count for root.
bool allow_threads(rlim_t threads) {
  constexpr uid_t nobody_else = 63017;
  if (::getuid() == 0 && (::setgid(nobody_else) != 0 || ::setuid(nobody_else) != 0)) return false;
  const rlimit limit{1 + threads, 1 + threads};
  return ::setrlimit(RLIMIT_NPROC, &limit) == 0;
}

/// Stacks so large that there is memory for none.
bool allow_no_stack() {
  pthread_attr_t attributes;
  return pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, SIZE_MAX / 4) == 0 &&
         pthread_setattr_default_np(&attributes) == 0;
}

}  // namespace

int test::check_no_threads() {
  const Inputs in({1, 256, 4, 8});
  const ra::RingDilatedAttentionV2<float> attention(small_config(1));
  const ra::TrueRingDilatedAttention<float> ring(small_config(12));
  ra::set_num_threads(1);
  const ra::Tensor<float> expected = attention.forward(in.q, in.k, in.v);
  ra::set_num_threads(6);

  // The limit counts every process of the user, so that as an ordinary user others' may use it up.
  const bool by_limit = allow_threads(2) && threads_granted() < 11;
  if (!by_limit && !(allow_no_stack() && threads_granted() == 0))
    return skip("threads cannot be limited here");
  const int granted = threads_granted();
  std::printf("%d threads are granted\n", granted);

  sigset_t before, after;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  std::string text;
  try {
    ring.forward(in.q, in.k, in.v);
  } catch (const std::system_error& error) {
    text = error.what();
  }
  std::printf("%s\n", text.c_str());
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (int signal = 1; signal < 32; ++signal) {
    if (sigismember(&before, signal) != sigismember(&after, signal))
      return fail("the caller's mask has changed");
  }
  const auto names = [&text](const std::string& part) { return text.find(part) != std::string::npos; };
  if (!names("ring_size = 12: ") || !names("only " + std::to_string(granted) + " of 11")) {
    return fail("the error does not name ring_size and how many threads there were");
  }

  std::atomic<int> bodies{0};
  ra::detail::parallel_for(100, 6, [&](std::int64_t, int) { ++bodies; });
  if (bodies != 100) return fail("a loop without threads is not whole");
  if (!same_bits(attention.forward(in.q, in.k, in.v), expected)) return fail("other bits without threads");
  return passed;
}
