#include "allocation/counting.hpp"

#include <malloc.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <limits>
#include <new>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define RING_ATTENTION_TEST_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define RING_ATTENTION_TEST_SANITIZED 1
#endif
#if defined(__GLIBC__) && !defined(RING_ATTENTION_TEST_SANITIZED)
#define RING_ATTENTION_TEST_COUNTS_MALLOC 1
#else
#define RING_ATTENTION_TEST_COUNTS_MALLOC 0
#endif

namespace {

constexpr std::size_t never = std::numeric_limits<std::size_t>::max();
std::atomic<std::uint64_t> allocation_count{0};
std::atomic<std::size_t> refused_from{never};
std::atomic<bool> refuse_elsewhere_only{false};
std::atomic<std::uint64_t> refused_count{0};
std::atomic<std::int64_t> peak{0};
std::atomic<std::int64_t> program_held{0}, program_before{0}, program_peak{0};
thread_local std::int64_t held = 0;  // bytes that this thread took and has not given back
thread_local bool is_caller = false;

void raise(std::atomic<std::int64_t>& most, std::int64_t now) {
  std::int64_t seen = most;
  while (now > seen && !most.compare_exchange_weak(seen, now)) {
  }
}

void* take(std::size_t size, std::size_t alignment) {
  ++allocation_count;
  if (size >= refused_from && !(refuse_elsewhere_only && is_caller)) {
    ++refused_count;
    return nullptr;
  }
  void* block = nullptr;
  if (alignment <= alignof(std::max_align_t)) {
    block = std::malloc(size == 0 ? 1 : size);
  } else if (posix_memalign(&block, alignment, size) != 0) {
    block = nullptr;
  }
  if (block == nullptr) return block;
  const auto bytes = static_cast<std::int64_t>(malloc_usable_size(block));
  raise(program_peak, program_held += bytes);
  if (is_caller) return block;
  held += bytes;
  raise(peak, held);
  return block;
}

void* take_or_throw(std::size_t size, std::size_t alignment) {
  void* block = take(size, alignment);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

void give(void* block) noexcept {
  if (block == nullptr) return;
  const auto bytes = static_cast<std::int64_t>(malloc_usable_size(block));
  program_held -= bytes;
  if (!is_caller) held -= bytes;
  std::free(block);
}

constexpr std::size_t natural = alignof(std::max_align_t);

}  // namespace

namespace test {

std::uint64_t allocations() { return allocation_count; }
bool counts_malloc() { return RING_ATTENTION_TEST_COUNTS_MALLOC != 0; }

RefuseAllocations::RefuseAllocations(std::size_t bytes, bool on_other_threads_only) {
  is_caller = true;
  refused_count = 0;
  refuse_elsewhere_only = on_other_threads_only;
  refused_from = bytes;
}
RefuseAllocations::~RefuseAllocations() { refused_from = never; }
std::uint64_t RefuseAllocations::refused() { return refused_count; }

void reset_peak() {
  is_caller = true;
  peak = 0;
  program_before = program_held.load();
  program_peak = program_held.load();
}
std::int64_t peak_of_other_threads() { return peak; }
std::int64_t peak_of_program() { return program_peak - program_before; }
std::int64_t held_by_program() { return program_held; }

}  // namespace test

void* operator new(std::size_t size) { return take_or_throw(size, natural); }
void* operator new[](std::size_t size) { return take_or_throw(size, natural); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return take_or_throw(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
  return take_or_throw(size, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return take(size, natural); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return take(size, natural); }
void* operator new(std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return take(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return take(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* block) noexcept { give(block); }
void operator delete[](void* block) noexcept { give(block); }
void operator delete(void* block, std::size_t) noexcept { give(block); }
void operator delete[](void* block, std::size_t) noexcept { give(block); }
void operator delete(void* block, std::align_val_t) noexcept { give(block); }
void operator delete[](void* block, std::align_val_t) noexcept { give(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { give(block); }
void operator delete[](void* block, std::size_t, std::align_val_t) noexcept { give(block); }
void operator delete(void* block, const std::nothrow_t&) noexcept { give(block); }
void operator delete[](void* block, const std::nothrow_t&) noexcept { give(block); }
void operator delete(void* block, std::align_val_t, const std::nothrow_t&) noexcept { give(block); }
void operator delete[](void* block, std::align_val_t, const std::nothrow_t&) noexcept { give(block); }

#if RING_ATTENTION_TEST_COUNTS_MALLOC

extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t size) noexcept {
  ++allocation_count;
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) noexcept {
  ++allocation_count;
  return __libc_calloc(count, size);
}
void* realloc(void* block, std::size_t size) noexcept {
  ++allocation_count;
  return __libc_realloc(block, size);
}
void* memalign(std::size_t alignment, std::size_t size) noexcept {
  ++allocation_count;
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  ++allocation_count;
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** block, std::size_t alignment, std::size_t size) noexcept {
  ++allocation_count;
  *block = __libc_memalign(alignment, size);
  return *block != nullptr ? 0 : ENOMEM;
}
}

#endif
