// Counts and refuses allocations of the whole program. For programs of their own: counting.cpp replaces
// operator new, and malloc and its family where the C library lets it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace test {

/// Allocations on any thread so far, through operator new or the malloc family.
std::uint64_t allocations();

/// Whether malloc itself is counted, too (glibc, without a sanitizer, which has a malloc of its own).
bool counts_malloc();

/// For its lifetime, operator new throws std::bad_alloc for blocks of at least `bytes`.
class RefuseAllocations {
 public:
  explicit RefuseAllocations(std::size_t bytes, bool on_other_threads_only = false);
  RefuseAllocations(const RefuseAllocations&) = delete;
  RefuseAllocations& operator=(const RefuseAllocations&) = delete;
  ~RefuseAllocations();

  /// Requests refused so far.
  static std::uint64_t refused();
};

/// The most that any single thread other than the caller's held at once since reset_peak, in bytes of
/// operator new.
void reset_peak();
std::int64_t peak_of_other_threads();
/// The most that the whole program held at once since reset_peak, beyond what it held then.
std::int64_t peak_of_program();
/// What the whole program holds now, in bytes of operator new.
std::int64_t held_by_program();

}  // namespace test
