// Leaks of the library's own, where AddressSanitizer looks for them: MPI leaves memory of its own behind.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define RING_ATTENTION_TEST_LEAKS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RING_ATTENTION_TEST_LEAKS 1
#endif
#endif

#ifdef RING_ATTENTION_TEST_LEAKS
#include <sanitizer/lsan_interface.h>

// What MPI allocates. Once its modules are unloaded, their names are gone: looked at before MPI_Finalize, not
// at exit.
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libmpi\nleak:libopen-\nleak:libpmix\nleak:libevent\nleak:libhwloc\nleak:mca_\nleak:libpmpi\n";
}
extern "C" const char* __asan_default_options() { return "leak_check_at_exit=0"; }

namespace test {
using IgnoredLeaks = __lsan::ScopedDisabler;
inline bool leaks_found() { return __lsan_do_recoverable_leak_check() != 0; }
}  // namespace test
#else
namespace test {
struct IgnoredLeaks {
  IgnoredLeaks() {}
};
inline bool leaks_found() { return false; }
}  // namespace test
#endif
