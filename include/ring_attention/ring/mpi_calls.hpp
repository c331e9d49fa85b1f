// What MPI's return codes and state mean to the library.
#pragma once

// The C interface alone: MPI's C++ bindings are gone from the standard, and would have to be linked.
#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1
#endif
#ifndef MPICH_SKIP_MPICXX
#define MPICH_SKIP_MPICXX 1
#endif
#if !__has_include(<mpi.h>)
#error \
    "ring_attention/mpi.hpp needs MPI: with CMake, link ring_attention::mpi; Debian: libopenmpi-dev openmpi-bin"
#endif
#include <mpi.h>

#include <memory>
#include <new>
#include <ring_attention/version.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {

/// MPI reported an error; the text names the call and says what MPI says of it.
class MpiError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

inline void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) length = 0;
  throw MpiError(std::string(call) + ": " + std::string(text, static_cast<std::size_t>(length)));
}

/// Keeps what MPI may still read or write after a rank was lost or a ring failed, to the end of the process.
template <class T>
void leave_to_mpi(std::unique_ptr<T> object) noexcept {
  T* const kept = object.release();
  try {
    static auto* const left = new std::vector<std::shared_ptr<const void>>;
    left->push_back(std::shared_ptr<const void>(kept, [](const void*) {}));
  } catch (const std::bad_alloc&) {
    // Kept, though no longer found by those who look for leaks.
  }
}

/// Whether a request is done; an empty one is.
inline bool test_mpi(MPI_Request& request) {
  int done = 0;
  check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
  return done != 0;
}

/// Throws std::logic_error if MPI does not allow that this thread calls it while `threads` compute, itself
/// included.
inline void require_mpi_level(int threads) {
  int level = MPI_THREAD_SINGLE, main_thread = 0;
  check_mpi(MPI_Query_thread(&level), "MPI_Query_thread");
  if (level < MPI_THREAD_FUNNELED) {
    if (threads == 1) return;
    throw std::logic_error(
        "MPI was initialised with MPI_THREAD_SINGLE, which allows one thread, and attention uses " +
        std::to_string(threads) +
        ": initialise it by MPI_Init_thread with MPI_THREAD_FUNNELED or more, or set context.threads or "
        "ring_attention::set_num_threads to 1");
  }
  check_mpi(MPI_Is_thread_main(&main_thread), "MPI_Is_thread_main");
  if (level == MPI_THREAD_FUNNELED && main_thread == 0) {
    throw std::logic_error(
        "MPI was initialised with MPI_THREAD_FUNNELED, and this is not the thread that did it: use that one, "
        "or ask MPI_Init_thread for MPI_THREAD_SERIALIZED or more");
  }
}

/// Throws std::logic_error if MPI is not running, or does not allow that this thread calls it. How many
/// threads compute is a matter of each call, where the ranks hear of it together.
inline void require_mpi() {
  int initialized = 0, finalized = 0;
  check_mpi(MPI_Initialized(&initialized), "MPI_Initialized");
  check_mpi(MPI_Finalized(&finalized), "MPI_Finalized");
  if (initialized == 0) throw std::logic_error("MPI is not initialised: call MPI_Init_thread first");
  if (finalized != 0) throw std::logic_error("MPI is finalised already");
  require_mpi_level(1);
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
