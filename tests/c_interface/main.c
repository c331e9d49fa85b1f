/* Calls of the interface in C. With queries and keys of 0, attention is the mean of the values that a row
 * meets. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "ring_attention_c.h"

#ifdef WITH_CUDA
#include <cuda_runtime_api.h>
#endif

enum { TOKENS = 12, HEADS = 2, DIM = 4, SIZE = TOKENS * HEADS * DIM };

/* The library exports the slot of the global pattern cache, which is one per process. */
extern void* ring_attention_v0_2_global_pattern_cache;

static int failures = 0;

static void expect(int holds, const char* what) {
  if (holds) return;
  ++failures;
  printf("FAILED: %s; last error: %s\n", what, ring_attention_last_error());
}

static ring_attention_tensor tensor(void* data) {
  const ring_attention_tensor dense = {data, {1, TOKENS, HEADS, DIM}, {SIZE, HEADS * DIM, DIM}};
  return dense;
}

static ring_attention_tensor lse_tensor(void* data) {
  const ring_attention_tensor dense = {data, {1, HEADS, TOKENS, 1}, {HEADS * TOKENS, TOKENS, 1}};
  return dense;
}

static const int64_t segment_lengths[] = {6};
static const int64_t dilation_rates[] = {2};
static const ring_attention_lengths all = {NULL, 0};

static ring_attention_config config_of(const char* preset) {
  ring_attention_config config;
  config.size = sizeof config;
  expect(ring_attention_preset(preset, &config) == RING_ATTENTION_OK, preset);
  config.segment_lengths = segment_lengths;
  config.dilation_rates = dilation_rates;
  config.branches = 1;
  return config;
}

/* Token t's values are t. A segment is 6 tokens long and keeps 0, 2, 4: means of 2 and 8. */
static float expected_of(int token) { return token < 6 ? 2.0F : 8.0F; }

static void fill(float* v) {
  for (int i = 0; i < SIZE; ++i) v[i] = (float)(i / (HEADS * DIM));
}

static void check_float(void) {
  float q[SIZE] = {0}, v[SIZE], out[SIZE], lse[HEADS * TOKENS], ones[SIZE], grad_q[SIZE], grad_k[SIZE],
        grad_v[SIZE];
  fill(v);
  for (int i = 0; i < SIZE; ++i) ones[i] = 1;
  const ring_attention_config config = config_of("ring");
  const ring_attention_tensor tq = tensor(q), tv = tensor(v), tout = tensor(out), tlse = lse_tensor(lse);
  expect(ring_attention_forward(&config, RING_ATTENTION_FLOAT32, &tq, &tq, &tv, &tout, &tlse, all, 1) ==
             RING_ATTENTION_OK,
         "forward");
  for (int i = 0; i < SIZE; ++i) {
    expect(fabsf(out[i] - expected_of(i / (HEADS * DIM))) < 1e-5F, "out is not the mean of the values");
  }
  for (int i = 0; i < HEADS * TOKENS; ++i) expect(fabsf(lse[i] - logf(3)) < 1e-5F, "lse is not log 3");

  const ring_attention_tensor tones = tensor(ones), tgq = tensor(grad_q), tgk = tensor(grad_k),
                              tgv = tensor(grad_v);
  expect(ring_attention_backward(&config, RING_ATTENTION_FLOAT32, &tq, &tq, &tv, &tout, &tlse, &tones, NULL,
                                 &tgq, &tgk, &tgv, all, 1) == RING_ATTENTION_OK,
         "backward");
  for (int i = 0; i < SIZE; ++i) {
    const int kept = i / (HEADS * DIM) % 2 == 0;
    expect(fabsf(grad_v[i] - (kept ? 2.0F : 0.0F)) < 1e-5F, "6 queries give a third each to 3 keys' values");
    expect(fabsf(grad_q[i]) < 1e-5F && fabsf(grad_k[i]) < 1e-5F, "equal keys have no gradient of scores");
  }

  const int64_t length = 7;
  const ring_attention_lengths lengths = {&length, 1};
  expect(ring_attention_forward(&config, RING_ATTENTION_FLOAT32, &tq, &tq, &tv, &tout, NULL, lengths, 0) ==
             RING_ATTENTION_OK,
         "forward without lse, of a shorter item");
  expect(fabsf(out[6 * HEADS * DIM] - 6) < 1e-5F && out[7 * HEADS * DIM] == 0, "a shorter item");
}

static void check_other_scalars(void) {
  double q[SIZE] = {0}, v[SIZE], out[SIZE], lse[HEADS * TOKENS];
  for (int i = 0; i < SIZE; ++i) v[i] = i / (HEADS * DIM);
  const ring_attention_config config = config_of("longnet");
  const ring_attention_tensor tq = tensor(q), tv = tensor(v), tout = tensor(out), tlse = lse_tensor(lse);
  expect(ring_attention_forward(&config, RING_ATTENTION_FLOAT64, &tq, &tq, &tv, &tout, &tlse, all, 1) ==
             RING_ATTENTION_OK,
         "forward in double");
  /* By head and for kept queries: head 0 keeps 0, 2, 4, head 1 keeps 1, 3, 5. */
  expect(fabs(out[0] - 2) < 1e-12 && out[HEADS * DIM] == 0 && fabs(out[HEADS * DIM + DIM] - 3) < 1e-12,
         "double");
  expect(fabs(lse[0] - log(3)) < 1e-12 && isinf(lse[1]), "lse in double");

  uint16_t q16[SIZE] = {0}, v16[SIZE], out16[SIZE];
  const ring_attention_tensor tq16 = tensor(q16), tv16 = tensor(v16), tout16 = tensor(out16);
  const ring_attention_config ring = config_of("ring");
  for (int scalar = RING_ATTENTION_FLOAT16; scalar <= RING_ATTENTION_BFLOAT16; ++scalar) {
    const uint16_t two = scalar == RING_ATTENTION_FLOAT16 ? 0x4000 : 0x4000; /* of both types */
    for (int i = 0; i < SIZE; ++i) v16[i] = two;
    expect(ring_attention_forward(&ring, (ring_attention_scalar)scalar, &tq16, &tq16, &tv16, &tout16, NULL,
                                  all, 1) == RING_ATTENTION_OK,
           "forward of 16 bits");
    for (int i = 0; i < SIZE; ++i) expect(out16[i] == two, "the mean of equal values");
  }
}

static void expect_invalid(ring_attention_status status, const char* text) {
  expect(status == RING_ATTENTION_INVALID_ARGUMENT && strstr(ring_attention_last_error(), text) != NULL,
         text);
}

static void check_errors(void) {
  float q[SIZE] = {0}, out[SIZE];
  ring_attention_config config = config_of("ring");
  const ring_attention_tensor tq = tensor(q), tout = tensor(out);
  expect_invalid(ring_attention_preset("gpt", &config), "name = \"gpt\"");
  expect_invalid(ring_attention_preset("ring", NULL), "config = null");
  expect_invalid(ring_attention_forward(NULL, RING_ATTENTION_FLOAT32, &tq, &tq, &tq, &tout, NULL, all, 1),
                 "config = null");
  expect_invalid(ring_attention_forward(&config, RING_ATTENTION_FLOAT32, &tq, NULL, &tq, &tout, NULL, all, 1),
                 "k = null");
  expect_invalid(
      ring_attention_forward(&config, (ring_attention_scalar)9, &tq, &tq, &tq, &tout, NULL, all, 1),
      "scalar = 9");
  expect_invalid(ring_attention_forward(&config, RING_ATTENTION_FLOAT32, &tq, &tq, &tq, &tq, NULL, all, 1),
                 "must not share memory");
  expect_invalid(ring_attention_forward(&config, RING_ATTENTION_FLOAT32, &tq, &tq, &tq, &tout, NULL, all, -1),
                 "context.threads = -1");
  config.size = 8;
  expect_invalid(ring_attention_forward(&config, RING_ATTENTION_FLOAT32, &tq, &tq, &tq, &tout, NULL, all, 1),
                 "config.size = 8");
  expect_invalid(ring_attention_preset("ring", &config), "config.size = 8");
  config = config_of("ring");
  config.offset_rule = 3;
  expect_invalid(ring_attention_forward(&config, RING_ATTENTION_FLOAT32, &tq, &tq, &tq, &tout, NULL, all, 1),
                 "config.offset_rule = 3");
  struct {
    ring_attention_config config;
    double later;
  } newer;
  memset(&newer, 0xff, sizeof newer);
  newer.config.size = sizeof newer;
  expect(ring_attention_preset("ring", &newer.config) == RING_ATTENTION_OK && newer.later == 0,
         "preset of a newer program");
  newer.config = config_of("ring");
  newer.config.size = sizeof newer;
  expect(ring_attention_forward(&newer.config, RING_ATTENTION_FLOAT32, &tq, &tq, &tq, &tout, NULL, all, 1) ==
             RING_ATTENTION_OK,
         "a newer program that sets no newer field");
  newer.later = 1;
  expect_invalid(
      ring_attention_forward(&newer.config, RING_ATTENTION_FLOAT32, &tq, &tq, &tq, &tout, NULL, all, 1),
      "too old to know");
  expect(ring_attention_v0_2_global_pattern_cache != NULL, "calls use the cache of the process");
  const int64_t none[] = {0};
  config = config_of("ring");
  config.segment_lengths = none;
  expect_invalid(ring_attention_forward(&config, RING_ATTENTION_FLOAT32, &tq, &tq, &tq, &tout, NULL, all, 1),
                 "segment_lengths[0] = 0: must be positive");
}

static void check_gpu(void) {
  ring_attention_context* context = NULL;
  char names[64] = "";
  if (!ring_attention_has_cuda()) {
    expect(ring_attention_context_create(NULL, &context) == RING_ATTENTION_NOT_AVAILABLE,
           "a context without CUDA");
    expect(ring_attention_cuda_kernels(0, names, sizeof names) == RING_ATTENTION_NOT_AVAILABLE,
           "kernels without CUDA");
    printf("no CUDA in this library\n");
    return;
  }
#ifdef WITH_CUDA
  int devices = 0;
  expect_invalid(ring_attention_cuda_kernels(0, NULL, 0), "names = null");
  expect_invalid(ring_attention_set_cuda_kernel("gpt"), "kernel = \"gpt\"");
  expect(ring_attention_set_cuda_kernel("generic") == RING_ATTENTION_OK &&
             ring_attention_set_cuda_kernel("") == RING_ATTENTION_OK,
         "kernels by name");
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    expect(ring_attention_context_create(NULL, &context) == RING_ATTENTION_CUDA_ERROR,
           "a context without a GPU");
    expect(ring_attention_cuda_kernels(0, names, sizeof names) == RING_ATTENTION_CUDA_ERROR,
           "kernels without a GPU");
    printf("there is no GPU: %s\n", ring_attention_last_error());
    return;
  }
  expect(ring_attention_cuda_kernels(0, names, sizeof names) == RING_ATTENTION_OK &&
             strstr(names, "generic") != NULL,
         "kernels of a GPU");
  expect_invalid(ring_attention_cuda_kernels(0, names, strlen(names)), "must be at least");
  float v[SIZE], out[SIZE];
  fill(v);
  float* memory = NULL;
  void* workspace = NULL;
  expect(cudaMalloc((void**)&memory, 3 * sizeof v) == cudaSuccess &&
             cudaMemset(memory, 0, 3 * sizeof v) == cudaSuccess &&
             cudaMemcpy(memory + SIZE, v, sizeof v, cudaMemcpyHostToDevice) == cudaSuccess,
         "device memory");
  const ring_attention_config config = config_of("ring");
  const ring_attention_tensor tq = tensor(memory), tv = tensor(memory + SIZE),
                              tout = tensor(memory + 2 * SIZE);
  expect(ring_attention_context_create(NULL, &context) == RING_ATTENTION_OK, "a context");
  size_t bytes = 0;
  expect(ring_attention_context_workspace_bytes(context, &config, RING_ATTENTION_FLOAT32, tq.shape, HEADS,
                                                all, &bytes) == RING_ATTENTION_OK,
         "workspace_bytes");
  expect(cudaMalloc(&workspace, bytes + 16) == cudaSuccess, "device memory");
  expect(ring_attention_context_set_workspace(context, workspace, bytes + 16) == RING_ATTENTION_OK,
         "set_workspace");
  expect(ring_attention_context_forward(context, &config, RING_ATTENTION_FLOAT32, &tq, &tq, &tv, &tout, NULL,
                                        all) == RING_ATTENTION_OK,
         "forward on a GPU");
  expect(cudaMemcpy(out, memory + 2 * SIZE, sizeof out, cudaMemcpyDeviceToHost) == cudaSuccess, "a copy");
  for (int i = 0; i < SIZE; ++i) {
    expect(fabsf(out[i] - expected_of(i / (HEADS * DIM))) < 1e-5F,
           "out of the GPU is not the mean of the values");
  }
  expect_invalid(
      ring_attention_context_forward(context, &config, RING_ATTENTION_FLOAT32, &tq, &tq, &tv, &tq, NULL, all),
      "must not share memory");
  ring_attention_context_destroy(context);
  cudaFree(workspace);
  cudaFree(memory);
  printf("forward on a GPU: done\n");
#endif
}

int main(void) {
  expect(ring_attention_c_version() == RING_ATTENTION_C_VERSION, "version");
  expect(strncmp(ring_attention_library_version(), "0.", 2) == 0, "version of the library");
  ring_attention_context_destroy(NULL);
  check_float();
  check_other_scalars();
  check_errors();
  check_gpu();
  printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
