// How failing CUDA calls are told: cuda::Error. Needs the CUDA toolkit's headers.
#pragma once

#include <cuda_runtime_api.h>

#include <ring_attention/version.hpp>
#include <stdexcept>
#include <string>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace cuda {

/// A CUDA call that failed. The text holds the call and CUDA's own name and description of the error.
class Error : public std::runtime_error {
 public:
  /// `call` is the name of the function that returned `code`.
  Error(cudaError_t code, const char* call)
      : std::runtime_error(std::string(call) + ": " + cudaGetErrorName(code) + " (" +
                           cudaGetErrorString(code) + ")"),
        code_(code) {}
  /// The same with a text of its own.
  Error(cudaError_t code, const std::string& text) : std::runtime_error(text), code_(code) {}

  cudaError_t code() const noexcept { return code_; }  ///< as CUDA returned it

 private:
  cudaError_t code_;
};

/// Device memory ran out. Outputs are untouched, and the context can be used again.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

}  // namespace cuda

namespace detail {

/// Throws what a CUDA call returned, unless it is success.
inline void throw_if_failed(cudaError_t code, const char* call) {
  if (code == cudaSuccess) return;
  // The runtime keeps the error for the next caller who asks, which would blame a call of the program's own.
  static_cast<void>(cudaGetLastError());
  if (code == cudaErrorMemoryAllocation) throw cuda::OutOfMemory(code, call);
  throw cuda::Error(code, call);
}

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
