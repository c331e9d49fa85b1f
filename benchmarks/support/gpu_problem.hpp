// The tensors of one timed problem on the current GPU, its calls, their checks and their time between events.
// Beside ring_attention::cuda_compiled.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <ring_attention/cuda.hpp>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "../../tests/support/device_copy.hpp"
#include "gpu_peaks.hpp"
#include "kernel_problem.hpp"
#include "peaks.hpp"

namespace benchmarks::gpu {

class Event {
 public:
  Event() { ra::detail::throw_if_failed(cudaEventCreate(&event_), "cudaEventCreate"); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { static_cast<void>(cudaEventDestroy(event_)); }

  void record(cudaStream_t stream) {
    ra::detail::throw_if_failed(cudaEventRecord(event_, stream), "cudaEventRecord");
  }
  /// Seconds between two recorded events; waits for the later one, `end`.
  friend double seconds_between(const Event& begin, const Event& end) {
    ra::detail::throw_if_failed(cudaEventSynchronize(end.event_), "cudaEventSynchronize");
    float milliseconds = 0;
    ra::detail::throw_if_failed(cudaEventElapsedTime(&milliseconds, begin.event_, end.event_),
                                "cudaEventElapsedTime");
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// A problem on the current device. Only forward runs on GPUs.
template <class Scalar>
class Problem {
 public:
  Problem(const Configuration& configuration, std::int64_t head_dim)
      : attention_(configuration),
        inputs_(configuration, head_dim),
        result_{ra::Tensor<Scalar>(inputs_.q.shape()),
                ra::Tensor<ra::accumulator_t<Scalar>>(1, configuration.heads, configuration.tokens, 1)},
        q_(inputs_.q.view()),
        k_(inputs_.k.view()),
        v_(inputs_.v.view()),
        out_(result_.out.view()),
        lse_(result_.lse.view()) {}

  /// The largest error in units of the tolerance. Throws std::runtime_error that says what is wrong.
  double validate(Direction) {
    out_.poison();
    lse_.poison();
    attention_.run([&](const auto& attention) {
      attention.forward(context_, q_.view(), k_.view(), v_.view(), out_.view(), lse_.view());
    });
    context_.check();
    if (!out_.zones_untouched() || !lse_.zones_untouched()) {
      throw std::runtime_error("memory beside the outputs was written");
    }
    out_.copy_back();
    lse_.copy_back();
    return inputs_.check(result_);
  }

  /// Seconds of each of `calls` calls that follow one another.
  double seconds_of_calls(Direction, int calls) {
    begin_.record(context_.stream());
    for (int i = 0; i < calls; ++i) {
      attention_.run([&](const auto& attention) {
        attention.forward(context_, q_.view(), k_.view(), v_.view(), out_.view());
      });
    }
    end_.record(context_.stream());
    return seconds_between(begin_, end_) / calls;
  }

 private:
  ConfiguredAttention<Scalar> attention_;
  CheckedInputs<Scalar> inputs_;
  ra::AttentionResult<Scalar> result_;
  test::DeviceCopy<const Scalar> q_, k_, v_;
  test::DeviceCopy<Scalar> out_;
  test::DeviceCopy<ra::accumulator_t<Scalar>> lse_;
  Event begin_, end_;
  ra::cuda::Context context_;
};

/// Calls on the current GPU; see OnProcessor.
struct OnGpu {
  template <class Scalar>
  using Problem = gpu::Problem<Scalar>;

  static constexpr bool has_threads = false, has_backward = false;
  static constexpr double least_sample_seconds = 0.02;

  static int device() {
    int current = 0;
    ra::detail::throw_if_failed(cudaGetDevice(&current), "cudaGetDevice");
    return current;
  }
  static cudaDeviceProp properties() {
    cudaDeviceProp found{};
    ra::detail::throw_if_failed(cudaGetDeviceProperties(&found, device()), "cudaGetDeviceProperties");
    return found;
  }
  static std::vector<std::string> kernels() { return ra::cuda::available_kernels(device()); }
  static void choose(const std::string& kernel, int) { ra::cuda::set_kernel(kernel); }
  /// Every kernel leaves double to the generic one.
  template <class Scalar>
  static bool serves(const std::string& kernel) {
    return !std::is_same_v<Scalar, double> || kernel == "generic";
  }

  /// The instruction that a kernel multiplies with: the generic one uses no tensor cores, and others make a
  /// product of floats of three TF32 products.
  template <class Scalar>
  static PeakProbe probe(const std::string& kernel) {
    if constexpr (std::is_same_v<Scalar, double>) return {"FMA double", operations_of_fma(), &double_fma};
    if (kernel == "generic") return {"FMA float", operations_of_fma(), &float_fma};
    if (std::is_same_v<Scalar, float>) {
      return {"mma.sync float", operations_of_products() / 2 / 3, &tf32_products};
    }
    if (std::is_same_v<Scalar, Eigen::half>) {
      return {"mma.sync half", operations_of_products(), &half_products};
    }
    return {"mma.sync bfloat16", operations_of_products(), &bfloat16_products};
  }
  static std::map<std::string, PeakProbe> probes() {
    std::map<std::string, PeakProbe> all;
    const std::string with_tensor_cores = properties().major >= 8 ? "sm80" : "generic";
    for (const PeakProbe& made :
         {probe<float>("generic"), probe<float>(with_tensor_cores), probe<double>(with_tensor_cores),
          probe<Eigen::half>(with_tensor_cores), probe<Eigen::bfloat16>(with_tensor_cores)}) {
      all.emplace(made.name, made);
    }
    return all;
  }

  static std::vector<Configuration> configurations(bool quick, const std::vector<std::int64_t>& head_dims) {
    std::vector<Configuration> all{dense(8192, 16, head_dims), causal(8192, 16, {64, 128}),
                                   longnet(16384, 12, {64}), gigapath(10000, 16, {48})};
    if (!quick) {
      all.push_back(longnet(262144, 12, {64}));
      all.back().best_kernel_only = true;
    }
    return all;
  }

  /// Adds the device to the description of a run.
  static void describe(nlohmann::json& run) {
    const cudaDeviceProp gpu = properties();
    run["machine"]["gpu"] = {{"name", gpu.name},
                             {"multiprocessors", gpu.multiProcessorCount},
                             {"memory_bytes", gpu.totalGlobalMem}};
    run["kernels"] = kernels();
    if (run["kernels"].empty()) {
      throw std::runtime_error(
          "this program carries no code for the GPU: name its architecture in "
          "CMAKE_CUDA_ARCHITECTURES");
    }
  }
};

}  // namespace benchmarks::gpu
