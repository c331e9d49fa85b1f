// In place of the library's header of this name: the same functions for emulated threads. Copies arrive as
// late as they may, or at once.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <ring_attention/version.hpp>
#include <stdexcept>
#include <vector>

namespace test {

inline constexpr std::size_t launch_bytes = 1U << 17;
alignas(128) inline std::byte launch_memory[launch_bytes];

struct PendingCopy {
  std::uint32_t to;
  const void* from;
  std::uint32_t bytes;
};
struct CopyingThread {
  std::vector<PendingCopy> begun;
  std::deque<std::vector<PendingCopy>> groups;
};
inline CopyingThread copying_threads[1024];
inline bool copies_arrive_at_once = false;

/// Memory in which a byte is named by its distance from the start.
inline std::byte* shared_bytes(std::uint32_t address, std::uint32_t alignment) {
  if (address % alignment != 0 || address + alignment > launch_bytes) {
    throw std::logic_error("an address in shared memory is not aligned, or outside");
  }
  return launch_memory + address;
}

inline void copy_now(const PendingCopy& copy) {
  std::byte* const to = shared_bytes(copy.to, 16);
  std::memset(to, 0, 16);
  if (copy.bytes == 0) return;
  if (reinterpret_cast<std::uintptr_t>(copy.from) % 16 != 0)
    throw std::logic_error("an address is not aligned");
  std::memcpy(to, copy.from, copy.bytes);
}

struct MatrixOperands {
  float a[4][2], b[2][2];
};
inline Exchange<MatrixOperands> exchanged_operands;
inline Exchange<std::uint32_t> exchanged_addresses;

template <class Stored>
void unpack(std::uint32_t packed, float (&pair)[2]) {
  const auto number = [](std::uint32_t bits) {
    return std::bit_cast<Stored>(static_cast<std::uint16_t>(bits));
  };
  pair[0] = static_cast<float>(number(packed));
  pair[1] = static_cast<float>(number(packed >> 16));
}

}  // namespace test

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {
namespace ptx {

inline std::byte* launch_memory() { return test::launch_memory; }

inline int thread_number() { return static_cast<int>(threadIdx.x); }

inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(static_cast<const std::byte*>(pointer) - test::launch_memory);
}

inline void copy_16_bytes(std::uint32_t to, const void* from, std::uint32_t bytes) {
  const test::PendingCopy copy{to, from, bytes};
  if (test::copies_arrive_at_once) return test::copy_now(copy);
  test::copying_threads[threadIdx.x].begun.push_back(copy);
}

inline void commit_copies() {
  test::CopyingThread& thread = test::copying_threads[threadIdx.x];
  thread.groups.push_back(std::move(thread.begun));
  thread.begun.clear();
}

template <int Pending>
void wait_for_copies() {
  auto& groups = test::copying_threads[threadIdx.x].groups;
  for (; groups.size() > Pending; groups.pop_front()) {
    for (const test::PendingCopy& copy : groups.front()) test::copy_now(copy);
  }
}

inline void load_rows(std::uint32_t (&matrices)[4], std::uint32_t row, bool transposed) {
  const std::uint32_t* const rows = test::exchanged_addresses.give(row);
  const unsigned lane = threadIdx.x % 32;
  for (unsigned i = 0; i < 4; ++i) {
    std::uint16_t pair[2];
    for (unsigned j = 0; j < 2; ++j) {
      const unsigned row_of_pair = transposed ? 2 * (lane % 4) + j : lane / 4;
      const unsigned column = transposed ? lane / 4 : 2 * (lane % 4) + j;
      std::memcpy(&pair[j], test::shared_bytes(rows[8 * i + row_of_pair], 16) + 2 * column, 2);
    }
    std::memcpy(&matrices[i], pair, sizeof pair);
  }
}
inline void load_matrices(std::uint32_t (&matrices)[4], std::uint32_t row) {
  load_rows(matrices, row, false);
}
inline void load_transposed_matrices(std::uint32_t (&matrices)[4], std::uint32_t row) {
  load_rows(matrices, row, true);
}

template <class Stored>
void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  test::MatrixOperands mine;
  for (int i = 0; i < 4; ++i) test::unpack<Stored>(a[i], mine.a[i]);
  test::unpack<Stored>(b0, mine.b[0]);
  test::unpack<Stored>(b1, mine.b[1]);
  const test::MatrixOperands* const lanes = test::exchanged_operands.give(mine);
  const unsigned lane = threadIdx.x % 32;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4, low = i / 2, column = 2 * (lane % 4) + i % 2;
    for (unsigned k = 0; k < 16; ++k) {
      c[i] += lanes[4 * row + k % 8 / 2].a[low + 2 * (k / 8)][k % 2] *
              lanes[4 * column + k % 8 / 2].b[k / 8][k % 2];
    }
  }
}

/// Tensor cores truncate their sums.
inline float truncated(double sum) {
  const auto rounded = static_cast<float>(sum);
  return std::fabs(static_cast<double>(rounded)) > std::fabs(sum) ? std::nextafter(rounded, 0.0F) : rounded;
}

inline void multiply_add_tf32(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                              std::uint32_t b1) {
  const auto number = [](std::uint32_t bits) { return std::bit_cast<float>(bits & ~0x1fffU); };
  test::MatrixOperands mine{};
  for (int i = 0; i < 4; ++i) mine.a[i][0] = number(a[i]);
  mine.b[0][0] = number(b0);
  mine.b[1][0] = number(b1);
  const test::MatrixOperands* const lanes = test::exchanged_operands.give(mine);
  const unsigned lane = threadIdx.x % 32;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4, low = i / 2, column = 2 * (lane % 4) + i % 2;
    double sum = c[i];
    for (unsigned k = 0; k < 8; ++k) {
      sum += static_cast<double>(lanes[4 * row + k % 4].a[low + 2 * (k / 4)][0]) *
             static_cast<double>(lanes[4 * column + k % 4].b[k / 4][0]);
    }
    c[i] = truncated(sum);
  }
}

template <class Stored>
std::uint32_t pack(float low, float high) {
  const auto bits = [](float x) { return std::bit_cast<std::uint16_t>(static_cast<Stored>(x)); };
  return bits(low) | static_cast<std::uint32_t>(bits(high)) << 16;
}

inline float power_of_two(float x) {
  const float power = std::exp2(x);
  return std::fpclassify(power) == FP_SUBNORMAL ? 0.0F : power;
}

inline std::uint32_t load_shared_word(std::uint32_t from) {
  std::uint32_t value;
  std::memcpy(&value, test::shared_bytes(from, 4), sizeof value);
  return value;
}
inline void store_shared(std::uint32_t to, std::uint32_t value) {
  std::memcpy(test::shared_bytes(to, 4), &value, sizeof value);
}
inline uint4 load_shared(std::uint32_t from) {
  uint4 value;
  std::memcpy(&value, test::shared_bytes(from, 16), sizeof value);
  return value;
}

}  // namespace ptx
}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
