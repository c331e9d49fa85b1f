// Kernels that find the first element of the inputs of a call that is infinite or not a number. For nvcc.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <ring_attention/cuda/error.hpp>
#include <ring_attention/cuda/finite_report.hpp>
#include <ring_attention/cuda/generic_forward.inl>
#include <ring_attention/plan/plan.hpp>
#include <ring_attention/version.hpp>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// q, k and v of one call, whose rows are numbered item by item, token by token, head by head.
template <class Stored>
struct CheckedInputs {
  DeviceRows<const Stored> tensors[3];
  std::int64_t heads[3];
  std::int64_t batch, tokens, head_dim;
  const std::int64_t* lengths;  ///< by batch item: rows from here on must not be read
};

namespace generic {

inline constexpr int check_threads = 256;

/// Keeps what was found, unless an earlier call's is there, and makes ready for the next call.
template <class Stored>
__device__ void keep_report(const CheckedInputs<Stored>& inputs, detail::FiniteCheck* check) {
  for (int i = 0; i < 3; ++i) {
    const unsigned long long first = atomicExch(&check->first[i], ~0ULL);
    if (first == ~0ULL || check->report.tensor != 0) continue;
    const auto at = static_cast<std::int64_t>(first);
    detail::FiniteReport report{};
    report.tensor = i + 1;
    report.column = at % inputs.head_dim;
    report.head = at / inputs.head_dim % inputs.heads[i];
    report.token = at / inputs.head_dim / inputs.heads[i] % inputs.tokens;
    report.item = at / inputs.head_dim / inputs.heads[i] / inputs.tokens;
    const Stored* row = inputs.tensors[i].row(report.item, report.token, report.head);
    report.value = static_cast<double>(row[report.column]);
    check->report = report;
  }
}

/// A row of one tensor for each warp at a time; gridDim.y is the number of tensors. The last block to end
/// keeps what all of them found.
template <class Stored>
__global__ void __launch_bounds__(check_threads)
    check_finite(const CheckedInputs<Stored> inputs, detail::FiniteCheck* check) {
  constexpr int row_warps = check_threads / warp_size;
  const DeviceRows<const Stored>& tensor = inputs.tensors[blockIdx.y];
  const std::int64_t heads = inputs.heads[blockIdx.y];
  const std::int64_t rows = inputs.batch * inputs.tokens * heads;
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const auto stride = static_cast<std::int64_t>(gridDim.x) * row_warps;
  for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * row_warps + warp; row < rows;
       row += stride) {
    const std::int64_t head = row % heads, token = row / heads % inputs.tokens;
    const std::int64_t item = row / heads / inputs.tokens;
    if (token >= inputs.lengths[item]) continue;
    const Stored* elements = tensor.row(item, token, head);
    for (std::int64_t c = lane; c < inputs.head_dim; c += warp_size) {
      if (isfinite(static_cast<double>(elements[c]))) continue;
      atomicMin(&check->first[blockIdx.y], static_cast<unsigned long long>(row * inputs.head_dim + c));
      break;
    }
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  __threadfence();
  const unsigned last = gridDim.x * gridDim.y - 1;
  if (atomicInc(&check->blocks_done, last) == last) keep_report(inputs, check);
}

}  // namespace generic

/// Queues the check of a call's inputs. Throws cuda::Error.
template <class Stored>
void queue_finite_check(const DeviceRows<const Stored> (&tensors)[3], const CallShape& shape,
                        const std::int64_t* lengths, detail::FiniteCheck* check, cudaStream_t stream) {
  CheckedInputs<Stored> inputs{{tensors[0], tensors[1], tensors[2]},
                               {shape.heads, shape.kv_heads, shape.kv_heads},
                               shape.batch,
                               shape.tokens,
                               shape.head_dim,
                               lengths};
  void* parameters[] = {&inputs, &check};
  constexpr unsigned most_blocks = 2048;
  constexpr std::int64_t row_warps = generic::check_threads / generic::warp_size;
  const std::int64_t blocks = detail::ceil_div(shape.batch * shape.tokens * shape.heads, row_warps);
  const unsigned grid = blocks < most_blocks ? static_cast<unsigned>(blocks) : most_blocks;
  detail::throw_if_failed(
      cudaLaunchKernel(reinterpret_cast<const void*>(&generic::check_finite<Stored>), dim3(grid, 3),
                       dim3(generic::check_threads), parameters, 0, stream),
      "cudaLaunchKernel");
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
