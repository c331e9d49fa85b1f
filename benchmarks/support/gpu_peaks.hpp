// Peak rates of a GPU: loops of nothing but one instruction on registers, on every multiprocessor of the
// current device.
#pragma once

#include <cstdint>

namespace benchmarks::gpu {

/// Products of 16 x 16 by 16 x 8 matrices on the tensor cores (mma.sync m16n8k16), which add up in float. The
/// functions return once the device has run `rounds` rounds; they throw ring_attention::cuda::Error.
void bfloat16_products(std::int64_t rounds);
void half_products(std::int64_t rounds);
/// Floating-point operations of one of their rounds.
double operations_of_products();
/// The same of 16 x 8 by 8 x 8 matrices (mma.sync m16n8k8), with half as many operations in a round.
void tf32_products(std::int64_t rounds);

/// Multiply-adds without tensor cores.
void float_fma(std::int64_t rounds);
void double_fma(std::int64_t rounds);
double operations_of_fma();

}  // namespace benchmarks::gpu
