// The members of a ring on threads that last as long as a call.
#pragma once

#include <functional>
#include <ring_attention/ring/thread_communicator.hpp>
#include <ring_attention/version.hpp>

#if RING_ATTENTION_DEFINES_ENGINE
#include <cstddef>
#include <exception>
#include <ring_attention/error.hpp>
#include <ring_attention/ring/communicator.hpp>
#include <ring_attention/threads/worker_thread.hpp>
#include <string>
#include <system_error>
#include <vector>
#endif

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Runs `member` to its end for every member of a ring of `size`, each on a thread of its own, the caller's
/// among them. Throws what the first member to fail threw, and std::system_error that names ring_size if the
/// system grants fewer threads.
void run_members(int size, const CommunicatorOptions& options,
                 const std::function<void(ThreadCommunicator&)>& member);

#if RING_ATTENTION_DEFINES_ENGINE

inline std::string too_few_threads(int size, std::size_t made) {
  return invalid_text("ring_size", std::to_string(size),
                      "every member is a thread, and the system granted only " + std::to_string(made) +
                          " of " + std::to_string(size - 1) +
                          " (the caller's is one more); limits are those of ulimit -u, cgroup pids.max and "
                          "memory");
}

RING_ATTENTION_INLINE void run_members(int size, const CommunicatorOptions& options,
                                       const std::function<void(ThreadCommunicator&)>& member) {
  ThreadRing ring(size, options);
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(size));
  const auto run = [&](int rank) {
    ThreadCommunicator communicator(ring, rank);
    try {
      tell_failure(communicator, [&] { member(communicator); });
    } catch (...) {
      errors[static_cast<std::size_t>(rank)] = std::current_exception();
    }
  };
  {
    JoinedThreads threads;
    threads.reserve(static_cast<std::size_t>(size - 1));
    const auto stop = [&ring](const char* why) {  // members that run wait for those that do not
      ThreadCommunicator communicator(ring, 0);
      give_up(communicator, why, Failure::error);
    };
    try {
      for (int rank = 1; rank < size; ++rank) threads.start([&run, rank] { run(rank); });
    } catch (const std::system_error& refused) {
      stop(refused.what());
      throw std::system_error(refused.code(), too_few_threads(size, threads.size()));
    } catch (const std::exception& error) {
      stop(error.what());
      throw;
    }
    run(0);
  }
  if (ring.failed_rank() >= 0) std::rethrow_exception(errors[static_cast<std::size_t>(ring.failed_rank())]);
}

#endif

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
