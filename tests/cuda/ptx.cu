// The wrappers of instructions, each against what its chapter of the manual says.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <new>
#include <ring_attention/cuda/ptx.inl>
#include <string>
#include <vector>

#include "ptx_checks.hpp"

namespace test {
namespace {

namespace ptx = ring_attention::engine::ptx;

constexpr int lanes = 32;

/// Memory of the host that the device reads and writes.
template <class T>
class Pinned {
 public:
  explicit Pinned(std::size_t count) {
    if (cudaMallocHost(&data_, count * sizeof(T)) != cudaSuccess) throw std::bad_alloc();
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() { cudaFreeHost(data_); }

  T* data() const { return data_; }
  T& operator[](std::size_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
};

/// Copies `bytes` of every 16 through shared memory.
__global__ void copy(const std::uint32_t* from, std::uint32_t* to, std::uint32_t bytes) {
  __shared__ uint4 chunks[lanes];
  chunks[threadIdx.x] = make_uint4(~0U, ~0U, ~0U, ~0U);
  __syncthreads();
  ptx::copy_16_bytes(ptx::shared_address(&chunks[threadIdx.x]), from + 4 * threadIdx.x, bytes);
  ptx::commit_copies();
  ptx::wait_for_copies<0>();
  __syncthreads();
  reinterpret_cast<uint4*>(to)[threadIdx.x] = ptx::load_shared(ptx::shared_address(&chunks[threadIdx.x]));
}

void check_copies(const Expect& expect) {
  const Pinned<std::uint32_t> from(4 * lanes), to(4 * lanes);
  for (std::uint32_t i = 0; i < 4 * lanes; ++i) from[i] = 1000 + i;
  for (const std::uint32_t bytes : {16U, 8U, 0U}) {
    copy<<<1, lanes>>>(from.data(), to.data(), bytes);
    bool right = cudaDeviceSynchronize() == cudaSuccess;
    for (std::uint32_t i = 0; i < 4 * lanes; ++i)
      right = right && to[i] == (i % 4 * 4 < bytes ? 1000 + i : 0);
    expect(right, "cp.async of " + std::to_string(bytes) + " bytes");
  }
}

/// Loads four matrices whose rows lie in reverse order.
__global__ void load(std::uint32_t* loaded, bool transposed) {
  __shared__ alignas(16) std::uint16_t numbers[lanes * 8];
  for (unsigned i = threadIdx.x; i < lanes * 8; i += lanes) numbers[i] = static_cast<std::uint16_t>(i);
  __syncthreads();
  const std::uint32_t row = ptx::shared_address(numbers + 8 * (lanes - 1 - threadIdx.x));
  std::uint32_t matrices[4];
  if (transposed) {
    ptx::load_transposed_matrices(matrices, row);
  } else {
    ptx::load_matrices(matrices, row);
  }
  for (unsigned i = 0; i < 4; ++i) loaded[4 * threadIdx.x + i] = matrices[i];
}

void check_matrices(const Expect& expect) {
  const Pinned<std::uint32_t> loaded(4 * lanes);
  for (const bool transposed : {false, true}) {
    load<<<1, lanes>>>(loaded.data(), transposed);
    bool right = cudaDeviceSynchronize() == cudaSuccess;
    for (std::uint32_t lane = 0; lane < lanes; ++lane) {
      for (std::uint32_t i = 0; i < 4; ++i) {
        const auto number = [&](std::uint32_t row, std::uint32_t column) {
          return 8 * (lanes - 1 - (8 * i + row)) + column;
        };
        const std::uint32_t row = lane / 4, column = 2 * (lane % 4);
        const std::uint32_t expected = transposed ? number(column, row) | number(column + 1, row) << 16
                                                  : number(row, column) | number(row, column + 1) << 16;
        right = right && loaded[4 * lane + i] == expected;
      }
    }
    expect(right, std::string("ldmatrix") + (transposed ? ".trans" : ""));
  }
}

__device__ float a_element(int row, int k) { return static_cast<float>((3 * row + 5 * k) % 17 - 8); }
__device__ float b_element(int k, int column) { return static_cast<float>((7 * k + 2 * column) % 13 - 6); }

template <class Stored>
__global__ void multiply(float* product) {
  const int lane = static_cast<int>(threadIdx.x), row = lane / 4, pair = 2 * (lane % 4);
  const auto a_pair = [](int r, int k) { return ptx::pack<Stored>(a_element(r, k), a_element(r, k + 1)); };
  const auto b_pair = [](int k, int c) { return ptx::pack<Stored>(b_element(k, c), b_element(k + 1, c)); };
  const std::uint32_t a[4] = {a_pair(row, pair), a_pair(row + 8, pair), a_pair(row, pair + 8),
                              a_pair(row + 8, pair + 8)};
  float c[4] = {1, 1, 1, 1};
  ptx::multiply_add<Stored>(c, a, b_pair(pair, row), b_pair(pair + 8, row));
  for (int i = 0; i < 4; ++i) product[8 * (row + i / 2 * 8) + pair + i % 2] = c[i];
}

/// Bits that do not count are set in every operand.
__global__ void multiply_tf32(float* product) {
  constexpr std::uint32_t ignored = 0x1fff;
  const int lane = static_cast<int>(threadIdx.x), row = lane / 4, column = lane % 4;
  const auto bits = [](float x) { return __float_as_uint(x) | ignored; };
  const std::uint32_t a[4] = {bits(a_element(row, column)), bits(a_element(row + 8, column)),
                              bits(a_element(row, column + 4)), bits(a_element(row + 8, column + 4))};
  float c[4] = {1, 1, 1, 1};
  ptx::multiply_add_tf32(c, a, bits(b_element(column, row)), bits(b_element(column + 4, row)));
  for (int i = 0; i < 4; ++i) product[8 * (row + i / 2 * 8) + 2 * column + i % 2] = c[i];
}

/// The numbers of the threads, through shared memory.
__global__ void exchange(std::uint32_t* numbers) {
  __shared__ std::uint32_t words[lanes];
  const auto place = [](int i) { return ptx::shared_address(words + i); };
  ptx::store_shared(place(ptx::thread_number()), static_cast<std::uint32_t>(ptx::thread_number()));
  __syncthreads();
  numbers[threadIdx.x] = ptx::load_shared_word(place(lanes - 1 - ptx::thread_number()));
}

void check_words(const Expect& expect) {
  const Pinned<std::uint32_t> numbers(lanes);
  exchange<<<1, lanes>>>(numbers.data());
  bool right = cudaDeviceSynchronize() == cudaSuccess;
  for (std::uint32_t i = 0; i < lanes; ++i) right = right && numbers[i] == lanes - 1 - i;
  expect(right, "words in shared memory");
}

void check_tf32_product(const Expect& expect) {
  const Pinned<float> product(16 * 8);
  multiply_tf32<<<1, lanes>>>(product.data());
  bool right = cudaDeviceSynchronize() == cudaSuccess;
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      int sum = 1;
      for (int k = 0; k < 8; ++k) sum += ((3 * row + 5 * k) % 17 - 8) * ((7 * k + 2 * column) % 13 - 6);
      right = right && product[static_cast<std::size_t>(8 * row + column)] == static_cast<float>(sum);
    }
  }
  expect(right, "mma of TF32");
}

template <class Stored>
void check_product(const Expect& expect, const char* name) {
  const Pinned<float> product(16 * 8);
  multiply<Stored><<<1, lanes>>>(product.data());
  bool right = cudaDeviceSynchronize() == cudaSuccess;
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      int sum = 1;
      for (int k = 0; k < 16; ++k) sum += ((3 * row + 5 * k) % 17 - 8) * ((7 * k + 2 * column) % 13 - 6);
      right = right && product[static_cast<std::size_t>(8 * row + column)] == static_cast<float>(sum);
    }
  }
  expect(right, std::string("mma of ") + name);
}

__global__ void raise(const float* exponents, float* powers, std::uint32_t* packed, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += lanes)
    powers[i] = ptx::power_of_two(exponents[i]);
  if (threadIdx.x > 0) return;
  // Between two bfloat16 numbers the even one is taken; half holds both exactly.
  packed[0] = ptx::pack<__nv_bfloat16>(1.00390625F, -2.0F);
  packed[1] = ptx::pack<__half>(1.00390625F, -2.0F);
}

void check_numbers(const Expect& expect) {
  const std::vector<float> exponents = {0, 1, -1, 0.5F, -3.25F, 10.125F, -100.7F, 127.5F, -INFINITY, -200};
  const Pinned<float> inputs(exponents.size()), powers(exponents.size());
  const Pinned<std::uint32_t> packed(2);
  for (std::size_t i = 0; i < exponents.size(); ++i) inputs[i] = exponents[i];
  raise<<<1, lanes>>>(inputs.data(), powers.data(), packed.data(), static_cast<int>(exponents.size()));
  bool right = cudaDeviceSynchronize() == cudaSuccess;
  for (std::size_t i = 0; i < exponents.size(); ++i) {
    const double exact = exponents[i] < -126 ? 0 : std::exp2(static_cast<double>(exponents[i]));
    right = right && std::fabs(static_cast<double>(powers[i]) - exact) <= 0x1p-21 * exact;
  }
  expect(right, "ex2");
  expect(packed[0] == 0xc0003f80U && packed[1] == 0xc0003c04U, "cvt to pairs");
}

}  // namespace

void check_instructions(const Expect& expect) {
  check_copies(expect);
  check_matrices(expect);
  check_product<__half>(expect, "half");
  check_product<__nv_bfloat16>(expect, "bfloat16");
  check_tf32_product(expect);
  check_words(expect);
  check_numbers(expect);
}

}  // namespace test
