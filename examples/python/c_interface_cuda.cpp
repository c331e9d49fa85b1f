// The interface in C: calls on GPUs.
#include <Eigen/Core>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <ring_attention/cuda.hpp>
#include <stdexcept>
#include <string>

#include "c_arguments.hpp"
#include "ring_attention_c.h"

namespace ra = ring_attention;

struct ring_attention_context {
  explicit ring_attention_context(void* stream) : context(static_cast<cudaStream_t>(stream)) {}

  ra::cuda::Context context;
};

namespace {

template <class Call>
ring_attention_status guarded(const Call& call) noexcept {
  return c_interface::guarded(call, [](const std::exception& error) {
    if (dynamic_cast<const ra::cuda::OutOfMemory*>(&error) != nullptr) return RING_ATTENTION_OUT_OF_MEMORY;
    if (dynamic_cast<const ra::cuda::Error*>(&error) != nullptr) return RING_ATTENTION_CUDA_ERROR;
    return RING_ATTENTION_FAILED;
  });
}

ra::cuda::Context& context_of(ring_attention_context* context) {
  static_cast<void>(c_interface::required(context, "context"));
  return context->context;
}

}  // namespace

int32_t ring_attention_has_cuda() { return 1; }

ring_attention_status ring_attention_cuda_kernels(int32_t device, char* names, size_t size) {
  return guarded([&] {
    static_cast<void>(c_interface::required(names, "names"));
    std::string text;
    for (const std::string& name : ra::cuda::available_kernels(device)) {
      text.append(text.empty() ? "" : " ").append(name);
    }
    if (size <= text.size()) {
      throw std::invalid_argument("size = " + std::to_string(size) + ": must be at least " +
                                  std::to_string(text.size() + 1));
    }
    std::copy_n(text.c_str(), text.size() + 1, names);
  });
}

ring_attention_status ring_attention_set_cuda_kernel(const char* name) {
  return guarded([&] { ra::cuda::set_kernel(&c_interface::required(name, "name")); });
}

ring_attention_status ring_attention_context_create(void* stream, ring_attention_context** context) {
  return guarded([&] {
    static_cast<void>(c_interface::required(context, "context"));
    *context = new ring_attention_context(stream);
  });
}

void ring_attention_context_destroy(ring_attention_context* context) { delete context; }

ring_attention_status ring_attention_context_set_workspace(ring_attention_context* context, void* data,
                                                           size_t bytes) {
  return guarded([&] { context_of(context).set_workspace(data, bytes); });
}

ring_attention_status ring_attention_context_workspace_bytes(ring_attention_context* context,
                                                             const ring_attention_config* config,
                                                             ring_attention_scalar scalar,
                                                             const int64_t shape[4], int64_t kv_heads,
                                                             ring_attention_lengths lengths, size_t* bytes) {
  return guarded([&] {
    c_interface::with_scalar(scalar, [&](auto number) {
      const ra::RingDilatedAttentionV2<decltype(number)> attention(c_interface::config_of(config));
      static_cast<void>(c_interface::required(shape, "shape"));
      static_cast<void>(c_interface::required(bytes, "bytes"));
      *bytes =
          context_of(context).workspace_bytes(attention, {shape[0], shape[1], shape[2], kv_heads, shape[3]},
                                              {.lengths = c_interface::lengths_of(lengths)});
    });
  });
}

ring_attention_status ring_attention_context_forward(
    ring_attention_context* context, const ring_attention_config* config, ring_attention_scalar scalar,
    const ring_attention_tensor* q, const ring_attention_tensor* k, const ring_attention_tensor* v,
    const ring_attention_tensor* out, const ring_attention_tensor* lse, ring_attention_lengths lengths) {
  return guarded([&] {
    c_interface::with_scalar(scalar, [&](auto number) {
      using Scalar = decltype(number);
      using Input = ra::cuda::View<const Scalar>;
      using Output = ra::cuda::View<Scalar>;
      const ra::RingDilatedAttentionV2<Scalar> attention(c_interface::config_of(config));
      const ra::ForwardOptions options{.lengths = c_interface::lengths_of(lengths)};
      const auto query = c_interface::view_of<Input>(q, "q"), key = c_interface::view_of<Input>(k, "k");
      const auto value = c_interface::view_of<Input>(v, "v");
      const auto result = c_interface::view_of<Output>(out, "out");
      if (lse == nullptr) {
        attention.forward(context_of(context), query, key, value, result, options);
      } else {
        using Lse = ra::cuda::View<ra::accumulator_t<Scalar>>;
        attention.forward(context_of(context), query, key, value, result,
                          c_interface::view_of<Lse>(lse, "lse"), options);
      }
    });
  });
}
