/* Dilated attention for C and for languages that call C: the interface of the shared library
   ring_attention_c.

   Every function returns a status, and none lets an exception out; what went wrong is said by
   ring_attention_last_error(). Functions may be called from several threads at once, those of one context one
   at a time. Tensors are [b, n, h, d] as ring_attention_tensor says, of one scalar type per call; a
   log-sum-exp is {b, h, n, 1} in float (double if the scalars are). Nothing is copied. */
#ifndef RING_ATTENTION_C_H
#define RING_ATTENTION_C_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define RING_ATTENTION_C
#else
#define RING_ATTENTION_C __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** Version of this interface. It rises when a program that was compiled with an older one would no longer
 * work. */
#define RING_ATTENTION_C_VERSION 1

/** RING_ATTENTION_C_VERSION of the library that is loaded. */
RING_ATTENTION_C int32_t ring_attention_c_version(void);
/** Version of ring_attention that it was made of, for example "0.2.0". */
RING_ATTENTION_C const char* ring_attention_library_version(void);

/** What a call returns. */
typedef enum {
  RING_ATTENTION_OK = 0,
  RING_ATTENTION_INVALID_ARGUMENT = 1, /**< an argument breaks a rule, which last_error names */
  RING_ATTENTION_OUT_OF_MEMORY = 2,    /**< of the host or the device; outputs are untouched */
  RING_ATTENTION_CUDA_ERROR = 3,       /**< a CUDA call failed */
  RING_ATTENTION_NOT_AVAILABLE = 4,    /**< the library was built without CUDA */
  RING_ATTENTION_FAILED = 5            /**< anything else */
} ring_attention_status;

/** What the calling thread's last call that did not return RING_ATTENTION_OK says; valid until its next call.
 */
RING_ATTENTION_C const char* ring_attention_last_error(void);

/** Type of the elements of q, k, v and out. */
typedef enum {
  RING_ATTENTION_FLOAT32 = 0,
  RING_ATTENTION_FLOAT64 = 1,
  RING_ATTENTION_FLOAT16 = 2,
  RING_ATTENTION_BFLOAT16 = 3
} ring_attention_scalar;

/** AttentionConfig. Set the size, fill the rest by ring_attention_preset, then set the branches and whatever
 * differs. */
typedef struct {
  size_t size;                    /**< sizeof(ring_attention_config). Later versions add fields at the end,
                                     whose value 0 changes nothing: programs and libraries of different
                                     versions agree as long as a program sets none that the library lacks. */
  const int64_t* segment_lengths; /**< [branches], in tokens */
  const int64_t* dilation_rates;  /**< [branches] */
  int64_t branches;
  int64_t ring_size;      /**< shards that the CPU visits keys in; a GPU takes no notice */
  int32_t head_partition; /**< 0: grouped, 1: shared */
  int32_t offset_rule;    /**< 0: by_branch, 1: by_head, 2: by_head_block */
  int32_t query_rule;     /**< 0: all, 1: dilated */
  int32_t padding_rule;   /**< 0: masked, 1: zero_attended */
  int32_t mix_gradient;   /**< 0: exact, 1: detached */
  int32_t causal;         /**< not 0: keys after a query's position are hidden from it */
  int32_t has_scale;      /**< 0: 1 / sqrt(d) */
  int32_t unused;
  double scale; /**< factor of the scores, if has_scale is not 0 */
} ring_attention_config;

/** Sets every field but the size, which says how many bytes there are: rules of the preset "ring", "longnet"
 * or "torchscale", no branches, ring size 1. */
RING_ATTENTION_C ring_attention_status ring_attention_preset(const char* name, ring_attention_config* config);

/** Borrowed memory. The last axis is contiguous. */
typedef struct {
  void* data;         /**< address of element (0, 0, 0, 0), on the host or, for contexts, on their device */
  int64_t shape[4];   /**< extents {b, n, h, d} */
  int64_t strides[3]; /**< distances in elements along b, n, h, of any sign */
} ring_attention_tensor;

/** One valid length per batch item. */
typedef struct {
  const int64_t* values; /**< [count]; items end there */
  int64_t count;         /**< the batch size, or 0: every item has n tokens */
} ring_attention_lengths;

/** out = attention of q [b, n, h, d] to k and v [b, n, h_kv, d], on the CPU. `lse` may be null.
    `threads`: 0 means all of the process. */
RING_ATTENTION_C ring_attention_status ring_attention_forward(
    const ring_attention_config* config, ring_attention_scalar scalar, const ring_attention_tensor* q,
    const ring_attention_tensor* k, const ring_attention_tensor* v, const ring_attention_tensor* out,
    const ring_attention_tensor* lse, ring_attention_lengths lengths, int32_t threads);

/** Gradients of sum(out * grad_out) (+ sum(lse * grad_lse)) on the CPU, from out and lse as forward gave
   them. `grad_lse` may be null. grad_q, grad_k and grad_v are overwritten. */
RING_ATTENTION_C ring_attention_status ring_attention_backward(
    const ring_attention_config* config, ring_attention_scalar scalar, const ring_attention_tensor* q,
    const ring_attention_tensor* k, const ring_attention_tensor* v, const ring_attention_tensor* out,
    const ring_attention_tensor* lse, const ring_attention_tensor* grad_out,
    const ring_attention_tensor* grad_lse, const ring_attention_tensor* grad_q,
    const ring_attention_tensor* grad_k, const ring_attention_tensor* grad_v, ring_attention_lengths lengths,
    int32_t threads);

/** 1 if the library was built with CUDA, otherwise 0; the functions below then return
    RING_ATTENTION_NOT_AVAILABLE. Says nothing of GPUs. */
RING_ATTENTION_C int32_t ring_attention_has_cuda(void);

/** Writes the names of the kernels that a CUDA device runs, the best first and with spaces between them, into
    `size` characters, of which the last written one is 0. */
RING_ATTENTION_C ring_attention_status ring_attention_cuda_kernels(int32_t device, char* names, size_t size);
/** Chooses the kernel of all calls on GPUs that begin from now on, in the whole process; "": the best. */
RING_ATTENTION_C ring_attention_status ring_attention_set_cuda_kernel(const char* name);

/** What calls on one CUDA stream work in. */
typedef struct ring_attention_context ring_attention_context;

/** `stream` is a cudaStream_t, which must outlive the context; null: the default stream of the current
 * device. */
RING_ATTENTION_C ring_attention_status ring_attention_context_create(void* stream,
                                                                     ring_attention_context** context);
/** Waits for the context's stream. Null is no error. */
RING_ATTENTION_C void ring_attention_context_destroy(ring_attention_context* context);

/** Device memory that calls from now on work in, aligned to 16 bytes, until they have run; null: the
 * context's own. */
RING_ATTENTION_C ring_attention_status ring_attention_context_set_workspace(ring_attention_context* context,
                                                                            void* data, size_t bytes);
/** How much of it a forward call needs, whose q has the shape {b, n, h, d} and whose k has kv_heads heads. */
RING_ATTENTION_C ring_attention_status ring_attention_context_workspace_bytes(
    ring_attention_context* context, const ring_attention_config* config, ring_attention_scalar scalar,
    const int64_t shape[4], int64_t kv_heads, ring_attention_lengths lengths, size_t* bytes);

/** ring_attention_forward on a GPU: queued on the context's stream, complete when that is. */
RING_ATTENTION_C ring_attention_status ring_attention_context_forward(
    ring_attention_context* context, const ring_attention_config* config, ring_attention_scalar scalar,
    const ring_attention_tensor* q, const ring_attention_tensor* k, const ring_attention_tensor* v,
    const ring_attention_tensor* out, const ring_attention_tensor* lse, ring_attention_lengths lengths);

#ifdef __cplusplus
}
#endif
#endif
