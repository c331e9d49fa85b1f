// The forward kernel for any GPU: plain arithmetic, every scalar, every rule. Its results are what faster
// kernels are compared with. For nvcc.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <numbers>
#include <ring_attention/cuda/error.hpp>
#include <ring_attention/cuda/work_list.hpp>
#include <ring_attention/error.hpp>
#include <ring_attention/version.hpp>
#include <type_traits>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Rows of a [b, n, h, d] tensor on a device.
template <class Stored>
struct DeviceRows {
  Stored* data;
  std::int64_t batch_stride, token_stride, head_stride;

  __device__ Stored* row(std::int64_t item, std::int64_t token, std::int64_t head) const {
    return data + (item * batch_stride + token * token_stride + head * head_stride);
  }
};

/// What a forward kernel is given. `Stored` is float, double, __half or __nv_bfloat16.
template <class Stored>
struct ForwardArguments {
  using T = std::conditional_t<std::is_same_v<Stored, double>, double, float>;

  DeviceRows<const Stored> q, k, v;
  DeviceRows<Stored> out;
  DeviceRows<T> lse;  ///< [b, h, n, 1]; without data: not wanted
  detail::WorkView work;
  const detail::ListPointers* lists;  ///< by sequence, of block-sparse plans
  detail::CarriedStates<T> carried;
  T scale;  ///< factor of scores in base-2 logarithms: scale * log2(e)
  std::int32_t block_size;
  std::int32_t group;  ///< query heads that share a key/value head
  std::int32_t head_dim;
  bool causal;
};

namespace generic {

inline constexpr int warp_size = 32;
inline constexpr int warps = 4;
inline constexpr int largest_head_dim = 256;
inline constexpr unsigned all_lanes = 0xffffffffU;

template <class T>
__device__ T infinity() {
  return static_cast<T>(__longlong_as_double(0x7ff0000000000000LL));
}

__device__ inline float power_of_two(float x) { return exp2f(x); }
__device__ inline double power_of_two(double x) { return exp2(x); }
__device__ inline float logarithm(float x) { return log2f(x); }
__device__ inline double logarithm(double x) { return log2(x); }

/// A 32-bit or 64-bit number of one lane's, in every lane.
template <class T>
__device__ T largest_of_warp(T x) {
  for (int distance = warp_size / 2; distance > 0; distance /= 2) {
    const T other = __shfl_xor_sync(all_lanes, x, distance);
    x = other > x ? other : x;
  }
  return x;
}

/// Adds in the same order in every lane, so that all get the same bits.
template <class T>
__device__ T sum_of_warp(T x) {
  for (int distance = warp_size / 2; distance > 0; distance /= 2)
    x += __shfl_xor_sync(all_lanes, x, distance);
  return x;
}

/// The state of one query row, held by a warp: lane i has the output's columns i, i + 32, ...
template <class T, int Columns>
struct RowState {
  T maximum = -infinity<T>();
  T sum = 0;
  T output[Columns] = {};

  /// Raises the reference to `other`; returns the factor for what is measured from it.
  __device__ T raise(T other) {
    const T raised = other > maximum ? other : maximum;
    const T kept = maximum == -infinity<T>() ? T(0) : power_of_two(maximum - raised);
    maximum = raised;
    sum *= kept;
    for (T& x : output) x *= kept;
    return power_of_two(other - raised);
  }
};

template <class Stored, int Columns>
struct RowKernel {
  using T = typename ForwardArguments<Stored>::T;
  using State = RowState<T, Columns>;

  const ForwardArguments<Stored>& call;
  const detail::WorkItem& item;
  const T* query;  // scaled, in shared memory
  int lane;

  /// query . key, in sums of few numbers each: one of all would round too much for large scores.
  __device__ T product(const Stored* key) const {
    constexpr int parts = 8;
    T sums[parts] = {};
    std::int32_t c = 0;
    for (; c + parts <= call.head_dim; c += parts) {
      for (int i = 0; i < parts; ++i) sums[i] += query[c + i] * static_cast<T>(key[c + i]);
    }
    for (int i = 0; i < parts; ++i) {
      if (c + i < call.head_dim) sums[i] += query[c + i] * static_cast<T>(key[c + i]);
    }
    for (int distance = parts / 2; distance > 0; distance /= 2) {
      for (int i = 0; i < distance; ++i) sums[i] += sums[i + distance];
    }
    return sums[0];
  }

  /// Meets `count` keys, at most one for each lane.
  __device__ void meet(State& state, const detail::RowSpan& keys, std::int32_t begin,
                       std::int32_t count) const {
    const std::int32_t kv_head = item.head / call.group;
    T score = -infinity<T>();
    if (lane < count) {
      score = product(call.k.row(item.batch_item, keys[begin + lane], kv_head));
    }
    const T largest = largest_of_warp(score);
    static_cast<void>(state.raise(largest));
    const T weight = lane < count ? power_of_two(score - state.maximum) : T(0);
    state.sum += sum_of_warp(weight);
    for (std::int32_t i = 0; i < count; ++i) {
      const T of_key = __shfl_sync(all_lanes, weight, i);
      const Stored* value = call.v.row(item.batch_item, keys[begin + i], kv_head);
      for (int j = 0; j < Columns; ++j) {
        const std::int32_t c = lane + j * warp_size;
        if (c < call.head_dim) state.output[j] += of_key * static_cast<T>(value[c]);
      }
    }
  }

  __device__ void meet_keys(State& state, std::int32_t row) const {
    for (detail::ItemKeys keys(item, call.work.spans, call.lists, call.block_size, call.causal);
         keys.next();) {
      const std::int32_t visible = call.causal ? (*keys).count_below(row + 1) : (*keys).count;
      for (std::int32_t begin = 0; begin < visible; begin += warp_size) {
        meet(state, *keys, begin, visible - begin < warp_size ? visible - begin : warp_size);
      }
    }
  }

  __device__ void meet_zero_keys(State& state) const {
    if (item.zero_keys == 0) return;
    const T factor = state.raise(0);
    state.sum += static_cast<T>(item.zero_keys) * factor;
  }

  __device__ void leave(const State& state, std::int64_t slot) const {
    for (int j = 0; j < Columns; ++j) {
      const std::int32_t c = lane + j * warp_size;
      if (c < call.head_dim) call.carried.output[slot * call.head_dim + c] = state.output[j];
    }
    if (lane == 0) {
      call.carried.maximum[slot] = state.maximum;
      call.carried.sum[slot] = state.sum;
    }
  }

  __device__ void take_states(State& state, std::int32_t row) const {
    for (std::int32_t i = item.state_begin; i < item.state_end; ++i) {
      const detail::StateSpan& left = call.work.states[i];
      const std::int32_t position = left.rows.find(row);
      if (position < 0) continue;
      const std::int64_t slot = item.carry + left.slot + position;
      const T maximum = call.carried.maximum[slot];
      if (maximum == -infinity<T>()) continue;
      const T factor = state.raise(maximum);
      state.sum += call.carried.sum[slot] * factor;
      for (int j = 0; j < Columns; ++j) {
        const std::int32_t c = lane + j * warp_size;
        if (c < call.head_dim) state.output[j] += call.carried.output[slot * call.head_dim + c] * factor;
      }
    }
  }

  __device__ void write(const State& state, std::int32_t row) const {
    const bool has_keys = state.sum != T(0);
    const T factor = has_keys ? T(1) / state.sum : T(0);
    Stored* out = call.out.row(item.batch_item, row, item.head);
    for (int j = 0; j < Columns; ++j) {
      const std::int32_t c = lane + j * warp_size;
      if (c < call.head_dim) out[c] = static_cast<Stored>(state.output[j] * factor);
    }
    if (lane != 0 || call.lse.data == nullptr) return;
    *call.lse.row(item.batch_item, item.head, row) =
        has_keys ? std::numbers::ln2_v<T> * (state.maximum + logarithm(state.sum)) : -infinity<T>();
  }
};

/// A block computes an item, its warps one row after the other.
template <class Stored, int Columns, bool Partial>
__global__ void __launch_bounds__(warps* warp_size)
    forward(const ForwardArguments<Stored> call, std::int64_t first_item) {
  using T = typename ForwardArguments<Stored>::T;
  __shared__ T queries[warps][largest_head_dim];
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const detail::WorkItem item = call.work.items[first_item + blockIdx.x];
  const RowKernel<Stored, Columns> kernel{call, item, queries[warp], lane};
  for (std::int32_t i = warp; i < item.rows.count; i += warps) {
    const std::int32_t row = item.rows[i];
    // Rows past the item's length have no keys, and must not be read.
    if (row < item.length) {
      const Stored* query = call.q.row(item.batch_item, row, item.head);
      for (std::int32_t c = lane; c < call.head_dim; c += warp_size) {
        queries[warp][c] = static_cast<T>(query[c]) * call.scale;
      }
    }
    __syncwarp();
    RowState<T, Columns> state;
    kernel.meet_keys(state, row);
    kernel.meet_zero_keys(state);
    if constexpr (Partial) {
      kernel.leave(state, item.carry + i);
    } else {
      kernel.take_states(state, row);
      kernel.write(state, row);
    }
    __syncwarp();
  }
}

template <class Stored, int Columns>
void queue_forward(const ForwardArguments<Stored>& call, cudaStream_t stream) {
  const auto queue = [stream](auto* kernel, ForwardArguments<Stored> arguments, std::int64_t first,
                              std::int64_t count) {
    if (count == 0) return;
    void* parameters[] = {&arguments, &first};
    detail::throw_if_failed(
        cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(count)),
                         dim3(warps * warp_size), parameters, 0, stream),
        "cudaLaunchKernel");
  };
  queue(&forward<Stored, Columns, true>, call, 0, call.work.partial_count);
  queue(&forward<Stored, Columns, false>, call, call.work.partial_count,
        call.work.item_count - call.work.partial_count);
}

}  // namespace generic

/// Queues the items of a call, the final ones after the partial ones. Throws cuda::Error.
template <class Stored>
void queue_generic_forward(const ForwardArguments<Stored>& call, cudaStream_t stream) {
  if (call.head_dim > generic::largest_head_dim) {
    detail::throw_invalid("q head dimension", call.head_dim, "must be at most 256 on a GPU");
  }
  const int columns = (call.head_dim + generic::warp_size - 1) / generic::warp_size;
  if (columns <= 1) {
    generic::queue_forward<Stored, 1>(call, stream);
  } else if (columns <= 2) {
    generic::queue_forward<Stored, 2>(call, stream);
  } else if (columns <= 4) {
    generic::queue_forward<Stored, 4>(call, stream);
  } else {
    generic::queue_forward<Stored, 8>(call, stream);
  }
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
