// Calls on a GPU that are repeated: the same bits, no allocation, little time of the host's.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <ring_attention/cuda.hpp>
#include <string>
#include <vector>

#include "checks.hpp"

namespace {

std::atomic<std::uint64_t> allocations{0};

void* take(std::size_t size, std::size_t alignment) {
  ++allocations;
  void* block = nullptr;
  if (posix_memalign(&block, alignment, size == 0 ? 1 : size) != 0) throw std::bad_alloc();
  return block;
}

}  // namespace

// Those of arrays and the like end here.
void* operator new(std::size_t size) { return take(size, alignof(std::max_align_t)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return take(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
void operator delete(void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }

namespace test {
namespace {

constexpr ra::Shape shape{1, 1024, 8, 64};

/// Bytes of the pool that contexts allocate from.
std::uint64_t pool_bytes(int device, cudaMemPoolAttr attribute) {
  cudaMemPool_t pool{};
  must(cudaDeviceGetDefaultMemPool(&pool, device));
  std::uint64_t bytes = 0;
  must(cudaMemPoolGetAttribute(pool, attribute, &bytes));
  return bytes;
}

template <class Attention>
void check_warm_calls(const std::string& name, const Attention& attention, int repetitions) {
  using Scalar = Eigen::bfloat16;
  const Stream stream;
  ra::cuda::Context context(stream);
  const SelfAttention<Scalar> tensors(shape);
  const auto view = tensors.input.view();
  const auto call = [&] { attention.forward(context, view, view, view, tensors.out.view()); };
  call();
  must(cudaStreamSynchronize(stream));
  const auto expected = tensors.out.bytes();

  int unequal = 0;
  for (int i = 0; i < repetitions; ++i) {
    tensors.out.poison();
    must(cudaDeviceSynchronize());
    call();
    must(cudaStreamSynchronize(stream));
    if (tensors.out.bytes() != expected) ++unequal;
  }
  expect(unequal == 0, name + ": " + std::to_string(unequal) + " calls gave other bits");

  // Calls follow one another without waiting, fewer than a stream's queue holds.
  constexpr int calls_in_a_row = 50;
  using Microseconds = std::chrono::duration<double, std::micro>;
  std::vector<double> in_a_row, after_waiting;
  in_a_row.reserve(static_cast<std::size_t>(repetitions / calls_in_a_row));
  after_waiting.reserve(static_cast<std::size_t>(repetitions));
  for (int i = 0; i < calls_in_a_row; ++i) call();
  must(cudaStreamSynchronize(stream));
  const std::uint64_t used = pool_bytes(context.device(), cudaMemPoolAttrUsedMemCurrent);
  const std::uint64_t before = allocations;
  for (int done = calls_in_a_row; done <= repetitions; done += calls_in_a_row) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < calls_in_a_row; ++i) call();
    in_a_row.push_back(Microseconds(std::chrono::steady_clock::now() - begin).count() / calls_in_a_row);
    must(cudaStreamSynchronize(stream));
  }
  for (int i = 0; i < repetitions; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    call();
    after_waiting.push_back(Microseconds(std::chrono::steady_clock::now() - begin).count());
    must(cudaStreamSynchronize(stream));
  }
  const std::uint64_t made = allocations - before;
  expect(made == 0, name + ": warm calls allocated " + std::to_string(made) + " times");
  expect(pool_bytes(context.device(), cudaMemPoolAttrUsedMemCurrent) == used,
         name + ": warm calls allocated on the device");
  const auto median = [](std::vector<double>& values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
  };
  if (in_a_row.empty()) return;
  const double cost = median(in_a_row);
  report("host cost of a warm call, " + name + ", n = 1024", cost, "us");
  report("of one that follows a wait for the stream", median(after_waiting), "us");
  expect(cost <= 15, name + ": a warm call takes more than 15 us of the host's time");
}

}  // namespace

void check_repetitions(int repetitions) {
  check_warm_calls("V2", ra::RingDilatedAttentionV2<Eigen::bfloat16>(longnet_config()), repetitions);
  check_warm_calls("Production", ra::RingDilatedAttentionProduction<Eigen::bfloat16>(longnet_config()),
                   repetitions);
  check_warm_calls("Production with check_finite",
                   ra::RingDilatedAttentionProduction<Eigen::bfloat16>(
                       longnet_config(), ra::ProductionOptions{.check_finite = true}),
                   repetitions);
  check_warm_calls("block-sparse", ra::BlockSparseRingDilatedAttention<Eigen::bfloat16>(block_config()),
                   repetitions);
}

}  // namespace test
