// The interface in C where there is no CUDA.
#include "c_arguments.hpp"
#include "ring_attention_c.h"

namespace {

ring_attention_status not_available() {
  return c_interface::fail(RING_ATTENTION_NOT_AVAILABLE, "this library was built without CUDA");
}

}  // namespace

int32_t ring_attention_has_cuda() { return 0; }

ring_attention_status ring_attention_cuda_kernels(int32_t, char*, size_t) { return not_available(); }

ring_attention_status ring_attention_set_cuda_kernel(const char*) { return not_available(); }

ring_attention_status ring_attention_context_create(void*, ring_attention_context**) {
  return not_available();
}

void ring_attention_context_destroy(ring_attention_context*) {}

ring_attention_status ring_attention_context_set_workspace(ring_attention_context*, void*, size_t) {
  return not_available();
}

ring_attention_status ring_attention_context_workspace_bytes(ring_attention_context*,
                                                             const ring_attention_config*,
                                                             ring_attention_scalar, const int64_t*, int64_t,
                                                             ring_attention_lengths, size_t*) {
  return not_available();
}

ring_attention_status ring_attention_context_forward(ring_attention_context*, const ring_attention_config*,
                                                     ring_attention_scalar, const ring_attention_tensor*,
                                                     const ring_attention_tensor*,
                                                     const ring_attention_tensor*,
                                                     const ring_attention_tensor*,
                                                     const ring_attention_tensor*, ring_attention_lengths) {
  return not_available();
}
