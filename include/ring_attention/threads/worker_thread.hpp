// Threads that the library makes: they take no signals from the program, and run on any core of the process.
#pragma once

#include <ring_attention/threads/available_cores.hpp>
#include <ring_attention/version.hpp>
#include <thread>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// While it lives, threads that this one creates block every signal. A program that waits for a signal blocks
/// it in its own threads only, and the system would deliver it to any other.
class SignalsBlocked {
 public:
#if defined(__unix__) || defined(__APPLE__)
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
#else
  SignalsBlocked() = default;
#endif
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

#if defined(__unix__) || defined(__APPLE__)
 private:
  sigset_t before_;
#endif
};

/// Starts a thread that runs `body`. Throws std::system_error if the system grants none, and std::bad_alloc.
template <class Body>
std::thread start_worker(Body body) {
  const SignalsBlocked before_it_starts;
  return std::thread([body = std::move(body)] {
    use_available_cores();
    body();
  });
}

/// Threads that are joined on every path.
class JoinedThreads {
 public:
  JoinedThreads() = default;
  ~JoinedThreads() {
    for (std::thread& thread : threads_) thread.join();
  }
  JoinedThreads(const JoinedThreads&) = delete;
  JoinedThreads& operator=(const JoinedThreads&) = delete;

  void reserve(std::size_t count) { threads_.reserve(count); }
  std::size_t size() const { return threads_.size(); }
  /// Throws as start_worker; a place must have been reserved.
  template <class Body>
  void start(Body body) {
    threads_.push_back(start_worker(std::move(body)));
  }

 private:
  std::vector<std::thread> threads_;
};

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
