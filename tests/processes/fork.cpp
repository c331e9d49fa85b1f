// Children of a process whose other threads are inside the library at the moment of the fork.
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <ring_attention/pattern/global_cache.hpp>
#include <ring_attention/pattern/pattern_cache.hpp>
#include <ring_attention/ring/thread_communicator.hpp>
#include <span>
#include <stdexcept>
#include <thread>
#include <vector>

#include "processes/calls.hpp"
#include "processes/checks.hpp"

#if defined(__SANITIZE_THREAD__)
#define TEST_UNDER_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TEST_UNDER_THREAD_SANITIZER 1
#endif
#endif

namespace {

namespace ra = ring_attention;
using Attention = ra::RingDilatedAttentionV2<float>;
using LocalAttention = ra::RingDilatedAttentionV2<float, ra::use_local_cache>;
using CachedAttention = ra::RingDilatedAttentionV2<float, ra::use_pattern_cache>;
using Service = ra::RingDilatedAttentionProduction<float>;
using TrueRing = ra::TrueRingDilatedAttention<float>;

const ra::PatternKey asked_key{4000, {64}, {4}, 0};

ra::PatternCache::Pattern make_slowly(const ra::PatternKey& key) {
  std::this_thread::sleep_for(std::chrono::microseconds(100));
  return ra::make_dilated_indices(key);
}

/// Everything that parent and children share.
struct Library {
  test::Inputs in{{1, 48, 4, 8}};
  std::unique_ptr<ra::PatternCache> cache = std::make_unique<ra::PatternCache>();
  Attention attention{test::small_config(2)};
  LocalAttention local{test::small_config(2)};
  CachedAttention cached{test::small_config(2), ra::use_pattern_cache(*cache)};
  Service service{test::small_config(2)};
  ra::Workspace workspace;
  TrueRing ring{test::small_config(3)};
  std::unique_ptr<ra::ThreadRing> members = std::make_unique<ra::ThreadRing>(2);
  ra::Tensor<float> out = attention.forward(in.q, in.k, in.v), ring_out = ring.forward(in.q, in.k, in.v);
  ra::PatternCache::Pattern pattern = ra::make_dilated_indices(asked_key);
};

/// Threads of the parent that use the library while they are told to, in groups.
class Others {
 public:
  explicit Others(Library& library) {
    keep_calling(0, [&library] { library.attention.forward(library.in.q, library.in.k, library.in.v); });
    keep_calling(0, [&library] { library.service.forward(library.in.q, library.in.k, library.in.v); });
    keep_calling(0, [&library] {
      library.attention.forward({.workspace = &library.workspace}, library.in.q, library.in.k, library.in.v);
      library.workspace.release();  // so that it grows in every call
    });
    for (int i = 0; i < 2; ++i) {  // one computes, the other waits for it
      keep_calling(1, [&library] {
        library.cache->find_or_compute(asked_key, make_slowly);
        library.cache->clear();
      });
      keep_calling(2, [&library, i] {
        const std::byte mine{7};
        ra::ThreadCommunicator(*library.members, i).all_gather(std::span(&mine, 1));
      });
    }
    keep_calling(1, [] {
      ra::get_global_pattern_cache().find_or_compute(asked_key, make_slowly);
      ra::clear_pattern_cache();
    });
    keep_calling(2, [&library] { library.ring.forward(library.in.q, library.in.k, library.in.v); });
    keep_calling(3, [&library] { library.local.forward(library.in.q, library.in.k, library.in.v); });
    keep_calling(3, [&library] {  // guards come and go
      const ra::PatternCache cache;
      const Service service(test::small_config(2));
      ra::Workspace workspace;  // on the stack of a thread that a child does not have
      service.forward({.workspace = &workspace}, library.in.q, library.in.k, library.in.v);
    });
  }
  Others(const Others&) = delete;
  Others& operator=(const Others&) = delete;

  /// One group, or at every fifth number all.
  void start(std::size_t number) {
    const std::size_t chosen = number % (groups + 1);
    for (std::size_t group = 0; group < groups; ++group) {
      if (chosen != group && chosen != groups) continue;
      going_[group] = true;
      going_[group].notify_all();
    }
  }
  void pause() {
    for (std::atomic<bool>& group : going_) group = false;
  }

 private:
  static constexpr std::size_t groups = 4;

  template <class Call>
  void keep_calling(std::size_t group, const Call& call) {
    // Never joined: members of a ring may wait for one another when it is time to end.
    std::thread([going = &going_[group], call] {
      for (;;) {
        going->wait(false);
        call();
      }
    }).detach();
  }

  std::array<std::atomic<bool>, groups> going_{};
};

/// What a child that is left with one thread finds; 0 if all is as in the parent.
int use_library(Library& library, int threads) {
  const test::Inputs& in = library.in;
  const auto right = [&library](const ra::Tensor<float>& out) { return test::same_bits(out, library.out); };
  if (ra::num_threads() != threads) return 10;
  if (!right(library.attention.forward(in.q, in.k, in.v))) return 11;
  if (!test::threads_meet(threads)) return 12;
  if (!right(library.service.forward(in.q, in.k, in.v))) return 13;
  if (!right(library.service.forward(in.q, in.k, in.v))) return 14;
  const ra::Context context{.workspace = &library.workspace};
  if (!right(library.attention.forward(context, in.q, in.k, in.v))) return 23;
  if (!right(library.attention.forward(context, in.q, in.k, in.v))) return 24;
  library.workspace.release();
  if (!right(library.local.forward(in.q, in.k, in.v))) return 15;
  if (!right(library.cached.forward(in.q, in.k, in.v))) return 16;
  if (*library.cache->find_or_compute(asked_key, ra::make_dilated_indices) != *library.pattern) return 17;
  if (*ra::get_global_pattern_cache().find_or_compute(asked_key, ra::make_dilated_indices) !=
      *library.pattern) {
    return 18;
  }
  if (!test::same_bits(library.ring.forward(in.q, in.k, in.v), library.ring_out)) return 19;
  ra::set_num_threads(threads + 2);
  if (!test::threads_meet(threads + 2)) return 20;
  if (!right(library.attention.forward(in.q, in.k, in.v))) return 21;
  try {
    // Either nothing was under way, and a member that comes alone waits until its time is up, or the ring
    // failed.
    ra::ThreadRing& members = *library.members;
    const std::byte mine{7};
    std::byte theirs{};
    ra::ThreadCommunicator first(members, 0), second(members, 1);
    auto sent = first.send(1, 0, std::span(&mine, 1));
    auto received = second.receive(0, 0, std::span(&theirs, 1));
    first.wait(sent);
    second.wait(received);
    if (theirs != mine) return 22;
  } catch (const ra::PeerLost&) {
  }
  library.members.reset();
  library.cache->clear();
  return 0;
}

/// The exit code of a child, or 100 plus the number of the signal that ended it. A child that hangs is
/// killed.
int wait_for(pid_t child) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  int status = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > deadline) ::kill(child, SIGKILL);
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

/// Forks while the others are at work; in every eighth child the forking thread is inside the cache, too.
int run_child(Library& library, Others& others, int threads, int number) {
  pid_t child = -1;
  const auto fork_now = [&] {
    child = ::fork();
    if (child != 0) others.pause();
    if (child == 0) ::alarm(60);  // should the parent be killed
  };
  others.start(static_cast<std::size_t>(number));
  std::this_thread::sleep_for(std::chrono::microseconds(37 * number % 500));
  int code = 1;
  try {
    if (number % 8 == 3) {
      const ra::PatternKey key{5000 + number, {64}, {4}, 0};
      const auto pattern = library.cache->find_or_compute(key, [&](const ra::PatternKey& missing) {
        fork_now();
        return ra::make_dilated_indices(missing);
      });
      if (*pattern != *ra::make_dilated_indices(key)) code = 2;
    } else {
      fork_now();
    }
    if (child == 0) code = code == 2 ? 2 : use_library(library, threads);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
  }
  if (child == 0) ::_exit(code);
  return child < 0 ? 3 : wait_for(child);
}

}  // namespace

int test::check_fork(int threads, int children) {
#if defined(TEST_UNDER_THREAD_SANITIZER)
  (void)threads, (void)children;
  return skip("ThreadSanitizer does not support threads in a child of a process with several");
#else
  ra::set_num_threads(threads);
  // Both live to the end of the process, as the threads that use them do.
  Library& library = *new Library;
  Others& others = *new Others(library);
  int failures = 0;
  for (int number = 0; number < children; ++number) {
    if (const int code = run_child(library, others, threads, number); code != 0) {
      std::fprintf(stderr, "FAIL  child %d: %d\n", number, code);
      if (++failures == 3) break;
    }
  }
  std::printf("%d threads, %d children: %d failures\n", threads, children, failures);
  std::fflush(stdout);
  ::_exit(failures == 0 ? passed : failed);  // destructors of static objects would meet threads that use them
#endif
}

/// A body of a loop that forks: the child has the forking thread's bodies only.
int test::check_fork_within_loop() {
#if defined(TEST_UNDER_THREAD_SANITIZER)
  return skip("ThreadSanitizer does not support threads in a child of a process with several");
#else
  const std::thread::id caller = std::this_thread::get_id();
  const pid_t parent = ::getpid();
  pid_t child = -1;
  bool refused = false;
  try {
    std::atomic<int> inside{0};
    std::atomic<bool> forked{false};
    ra::detail::parallel_for(2, 2, [&](std::int64_t, int) {
      ++inside;
      if (!comes_true([&] { return inside == 2; })) throw std::runtime_error("the bodies do not meet");
      if (std::this_thread::get_id() == caller) {
        child = ::fork();
        forked = true;
      } else if (!comes_true([&] { return forked.load(); })) {
        throw std::runtime_error("the other body did not fork");
      }
    });
  } catch (const std::logic_error&) {
    refused = true;
  }
  if (::getpid() != parent) ::_exit(refused && threads_meet(3) ? 0 : 1);
  if (refused) return fail("the parent's loop was refused");
  return wait_for(child) == 0 ? passed : fail("the child does not say that part of its loop is missing");
#endif
}
