// What the checks of calls on a GPU share.
#pragma once

#include <cuda_runtime_api.h>

#include <Eigen/Core>
#include <cstdint>
#include <ring_attention/cuda.hpp>
#include <ring_attention/tensor.hpp>
#include <string>

#include "support/device_copy.hpp"
#include "support/tensors.hpp"

namespace test {

namespace ra = ring_attention;

/// Counts and prints what does not hold.
void expect(bool holds, const std::string& what);
/// Prints a measured number, which the record of a run keeps.
void report(const std::string& name, double value, const std::string& unit);

/// A stream that is not the default one.
class Stream {
 public:
  Stream() { must(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { static_cast<void>(cudaStreamDestroy(stream_)); }

  operator cudaStream_t() const { return stream_; }  // NOLINT(google-explicit-constructor)

 private:
  cudaStream_t stream_ = nullptr;
};

inline ra::AttentionConfig longnet_config() {
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {256, 512, 1024};
  config.dilation_rates = {1, 2, 4};
  config.causal = true;
  return config;
}

/// For block lists, which take the place of branches.
inline ra::AttentionConfig block_config() {
  ra::AttentionConfig config = ra::ring_preset();
  config.segment_lengths = {1024};
  config.dilation_rates = {1};
  return config;
}

/// q, which is k and v, too, and out of one shape on the device.
template <class Scalar>
struct SelfAttention {
  explicit SelfAttention(const ra::Shape& shape, std::uint64_t seed = 1)
      : host(random_tensor<Scalar>(shape, seed)), host_out(shape), input(host.view()), out(host_out.view()) {}

  ra::Tensor<Scalar> host, host_out;
  DeviceCopy<Scalar> input, out;
};

/// Calls on a GPU against the float64 oracle and the golden files; `cases` random ones of each scalar.
void check_values(std::uint64_t first, std::uint64_t cases);
/// Graphs, workspaces, patterns, counters, checks of inputs, memory that runs out, errors.
void check_calls();
/// Same bits in repeated calls, and what a warm call costs the host.
void check_repetitions(int repetitions);

}  // namespace test
