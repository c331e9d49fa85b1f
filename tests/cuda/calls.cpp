// What surrounds the arithmetic of calls on a GPU: graphs, workspaces, patterns, counters, errors.
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <ring_attention/cuda.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "checks.hpp"
#include "support/device_copy.hpp"
#include "support/error_text.hpp"
#include "support/tensors.hpp"

namespace test {
namespace {

void expect_text(const std::string& text, const std::string& part, const std::string& what) {
  expect(text.find(part) != std::string::npos, what + ": " + text);
}

/// What a stream captured, ready to run.
class Graph {
 public:
  template <class Call>
  Graph(cudaStream_t stream, const Call& call) : stream_(stream) {
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    call();
    cudaGraph_t graph = nullptr;
    must(cudaStreamEndCapture(stream, &graph));
    must(cudaGraphInstantiate(&executable_, graph, 0));
    must(cudaGraphDestroy(graph));
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() { static_cast<void>(cudaGraphExecDestroy(executable_)); }

  void replay() const {
    must(cudaGraphLaunch(executable_, stream_));
    must(cudaStreamSynchronize(stream_));
  }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t executable_ = nullptr;
};

/// Branches in groups, whose states are carried.
ra::AttentionConfig carrying_config() {
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {1000, 4000, 9000};
  config.dilation_rates = {1, 6, 12};
  config.causal = true;
  return config;
}
constexpr ra::Shape carrying_shape{1, 9000, 12, 16};
constexpr ra::CallShape carrying_call{1, 9000, 12, 12, 16};

/// A capture before the first call is refused; afterwards a graph gives the same bits, also when a later call
/// has made the context's workspace grow.
void check_graphs() {
  const Stream stream;
  ra::cuda::Context context(stream);
  const ra::RingDilatedAttentionProduction<float> attention(carrying_config(),
                                                            ra::ProductionOptions{.check_finite = true});
  const SelfAttention<float> small({1, 5000, 12, 16}), large(carrying_shape);
  const auto call = [&](const SelfAttention<float>& tensors) {
    const auto view = tensors.input.view();
    attention.forward(context, view, view, view, tensors.out.view());
  };

  cudaGraph_t graph = nullptr;
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  const std::string refused = error_text([&] { call(small); });
  must(cudaStreamEndCapture(stream, &graph));
  must(cudaGraphDestroy(graph));
  expect_text(refused, "make the call once before the capture", "cold capture");

  call(small);
  {
    std::string in_capture;
    const Graph whole(stream, [&] {
      call(small);
      in_capture = error_text([&] { context.check(); });
    });
    expect_text(in_capture, "call it outside the capture", "check in a capture");
  }
  context.check();
  const auto expected = small.out.bytes();
  const Graph captured(stream, [&] { call(small); });
  call(large);
  for (int i = 0; i < 3; ++i) {
    small.out.poison();
    captured.replay();
    expect(small.out.bytes() == expected, "a graph gave other bits");
  }
  context.check();
}

/// The first call of a kind does not wait for what its stream was given.
void check_first_calls() {
  const Stream stream;
  ra::cuda::Context context(stream);
  const ra::RingDilatedAttentionProduction<float> attention(carrying_config(),
                                                            ra::ProductionOptions{.check_finite = true});
  const SelfAttention<float> tensors({1, 3000, 12, 16});
  const auto view = tensors.input.view();
  std::atomic<bool> released{false};
  must(cudaLaunchHostFunc(
      stream,
      [](void* flag) {
        const auto& open = *static_cast<std::atomic<bool>*>(flag);
        while (!open) std::this_thread::yield();
      },
      &released));
  // A call that waited would never return: the stream waits for what follows it.
  std::thread watchdog([&] {
    for (int i = 0; i < 100 && !released; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    expect(released, "a first call waits for its stream");
    released = true;
  });
  const std::string failure = error_text([&] {
    attention.forward(context, view, view, view, tensors.out.view());
    expect(cudaStreamQuery(stream) == cudaErrorNotReady, "the stream did not wait");
  });
  released = true;
  watchdog.join();
  expect(failure == "no error", "a first call: " + failure);
  context.check();
}

/// What calls do beside the stream of a capture leaves it alone, and so does the end of a context whose own
/// stream is capturing.
void check_other_captures() {
  const Stream stream, other;
  const ra::BlockSparseRingDilatedAttention<float, ra::use_no_cache> attention(
      block_config(), ra::BlockSparseConfig{.block_size = 8});
  const SelfAttention<float> tensors({1, 208, 2, 8});
  const auto view = tensors.input.view();
  const auto call = [&](ra::cuda::Context& context) {
    attention.forward(context, view, view, view, tensors.out.view());
  };
  const auto capture = [&](const char* what, const auto& calls) {
    cudaGraph_t graph = nullptr;
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    const std::string failure = error_text(calls);
    expect(cudaStreamEndCapture(stream, &graph) == cudaSuccess, std::string(what) + " ended a capture");
    if (graph != nullptr) must(cudaGraphDestroy(graph));
    expect(cudaGetLastError() == cudaSuccess, std::string(what) + " left an error");
    return failure;
  };
  const std::string beside = capture("a first call on another stream", [&] {
    ra::cuda::Context context(other);
    call(context);
    context.check();
  });
  expect(beside == "no error", "beside a capture: " + beside);
  const std::string refused = capture("a context that ends", [&] {
    ra::cuda::Context context(stream);
    call(context);
  });
  expect_text(refused, "make the call once before the capture", "cold capture by a context that ends");
  auto warm = std::make_unique<ra::cuda::Context>(stream);
  call(*warm);
  const std::string ended = capture("a warm context that ends", [&] { warm.reset(); });
  expect(ended == "no error", "the end of a warm context: " + ended);
}

void check_workspaces() {
  const Stream stream;
  ra::cuda::Context context(stream), other(stream);
  const ra::RingDilatedAttentionV2<float> attention(carrying_config());
  const SelfAttention<float> tensors(carrying_shape);
  const auto view = tensors.input.view();
  const auto call = [&](ra::cuda::Context& in) {
    attention.forward(in, view, view, view, tensors.out.view());
    must(cudaStreamSynchronize(stream));
  };
  call(other);
  const auto expected = tensors.out.bytes();

  const std::size_t bytes = context.workspace_bytes(attention, carrying_call);
  expect(bytes > 0, "no states are carried in what is to test them");
  constexpr std::size_t zone = 4096;
  void* allocation = nullptr;
  must(cudaMalloc(&allocation, bytes + zone));
  auto* const memory = static_cast<std::byte*>(allocation);
  must(cudaMemset(memory, 0xff, bytes + zone));
  context.set_workspace(memory, bytes);
  tensors.out.poison();
  call(context);
  expect(tensors.out.bytes() == expected, "the caller's workspace changes the result");
  std::vector<unsigned char> after(zone);
  must(cudaMemcpy(after.data(), memory + bytes, zone, cudaMemcpyDeviceToHost));
  for (const unsigned char value : after) {
    if (value != 0xff) expect(false, "memory after the workspace was written");
  }
  context.set_workspace(memory, bytes - 1);
  expect_text(error_text([&] { call(context); }), "this call needs " + std::to_string(bytes),
              "small workspace");
  expect_text(error_text([&] { context.set_workspace(memory + 1, bytes); }), "aligned", "odd workspace");
  context.set_workspace(nullptr, 0);
  call(context);
  expect(tensors.out.bytes() == expected, "the context's own workspace changes the result");
  must(cudaFree(memory));

  // A limit below what the groups of branches would carry: one group, the same result up to rounding.
  const ra::RingDilatedAttentionProduction<float> limited(
      carrying_config(), ra::ProductionOptions{.workspace_limit_bytes = bytes - 1});
  expect(context.workspace_bytes(limited, carrying_call) == 0, "the workspace limit is not honoured");
  expect_text(error_text([&] {
                context.workspace_bytes(attention, {1, 4, 4, 3, 8});
              }),
              "multiple of the key/value heads", "shape of workspace_bytes");
}

void check_counters() {
  const Stream stream;
  ra::cuda::Context context(stream);
  const SelfAttention<float> tensors(carrying_shape);
  const auto view = tensors.input.view();
  const ra::RingDilatedAttentionProduction<float, ra::use_local_cache> attention(carrying_config());
  const auto call = [&] { attention.forward(context, view, view, view, tensors.out.view()); };
  call();
  context.check();
  const ra::ProductionCounters first = attention.counters();
  for (int i = 0; i < 4; ++i) call();
  context.check();
  const ra::ProductionCounters counters = attention.counters();
  expect(counters.forward_calls == 5 && counters.tokens == 5 * 9000, "calls and tokens are not counted");
  expect(counters.workspace_bytes == context.workspace_bytes(attention, carrying_call),
         "workspace is not counted");
  expect(first.cache_misses > 0 && counters.cache_misses == first.cache_misses, "lookups are not counted");
  expect(first.seconds > 0 && first.seconds < 1, "seconds of one call: " + std::to_string(first.seconds));
  expect(counters.seconds > 2 * first.seconds / 5 && counters.seconds < 5,
         "seconds of five calls: " + std::to_string(counters.seconds));
}

void check_finite_inputs() {
  const Stream stream;
  ra::cuda::Context context(stream);
  ra::AttentionConfig config = longnet_config();
  const ra::RingDilatedAttentionProduction<Eigen::bfloat16> attention(
      config, ra::ProductionOptions{.check_finite = true});
  const ra::Shape shape{2, 300, 4, 48};
  auto bad = random_tensor<Eigen::bfloat16>(shape, 3);
  bad(1, 200, 2, 40) = Eigen::bfloat16(std::numeric_limits<float>::infinity());
  bad(1, 201, 0, 0) = Eigen::bfloat16(std::numeric_limits<float>::quiet_NaN());
  const DeviceCopy device_bad(bad.view());
  const SelfAttention<Eigen::bfloat16> good(shape);
  const auto call = [&](const auto& k, const auto& v, const ra::ForwardOptions& options = {}) {
    attention.forward(context, good.input.view(), k, v, good.out.view(), options);
  };
  call(good.input.view(), good.input.view());
  context.check();
  call(good.input.view(), device_bad.view());
  call(device_bad.view(), good.input.view());
  call(good.input.view(), good.input.view());
  const std::string text = error_text([&] { context.check(); });
  expect(text == "v(1, 200, 2, 40) = inf: must be finite", "finite check: " + text);
  context.check();
  call(device_bad.view(), device_bad.view(), {.lengths = {300, 200}});
  context.check();
  call(device_bad.view(), device_bad.view(), {.lengths = {300, 201}});
  expect_text(error_text([&] { context.check(); }), "k(1, 200, 2, 40)", "finite check of lengths");
}

void check_patterns() {
  const Stream stream;
  ra::cuda::Context context(stream), second(stream);
  ra::AttentionConfig config = block_config();
  config.causal = true;
  const ra::BlockSparseConfig sparse{.pattern = ra::BlockPattern::global_local, .block_size = 16};
  ra::PatternCache cache;
  using Cached = ra::BlockSparseRingDilatedAttention<float>;
  const Cached first(config, sparse, ra::use_pattern_cache(cache)),
      layer(config, sparse, ra::use_pattern_cache(cache));
  const ra::BlockSparseRingDilatedAttention<float, ra::use_no_cache> uncached(config, sparse);
  const SelfAttention<float> tensors({1, 640, 2, 16});
  const auto call = [&](ra::cuda::Context& in, const auto& attention) {
    const auto view = tensors.input.view();
    attention.forward(in, view, view, view, tensors.out.view());
    must(cudaStreamSynchronize(stream));
    return tensors.out.bytes();
  };
  const auto expected = call(context, first);
  const std::size_t bytes = cache.stats().device_bytes;
  const ra::PatternCacheStats stats = cache.stats();
  expect(stats.entries == 1 && bytes > 0 && bytes < stats.bytes + 64,
         "device_bytes: " + std::to_string(bytes));
  expect(call(second, layer) == expected, "another layer gave other bits");
  expect(cache.stats().device_bytes == bytes, "another context made a copy of its own");
  cache.clear();
  expect(cache.stats().device_bytes == 0, "device_bytes of an empty cache");
  expect(call(context, first) == expected, "a call whose pattern was dropped gave other bits");
  ra::cuda::Context third(stream);
  expect(call(third, uncached) == expected, "a call without a cache gave other bits");
  expect(cache.stats().device_bytes == 0, "a call without a cache used one");
}

/// More plans than a context keeps, and threads that use one object.
void check_many_calls() {
  const Stream stream;
  const ra::BlockSparseRingDilatedAttention<float, ra::use_no_cache> attention(
      block_config(), ra::BlockSparseConfig{.block_size = 8});
  const SelfAttention<float> tensors({1, 200, 2, 8});
  const auto view = tensors.input.view();
  const auto call = [&](ra::cuda::Context& context, const DeviceCopy<float>& out, std::int64_t length) {
    attention.forward(context, view, view, view, out.view(), {.lengths = {length}});
  };
  std::vector<std::vector<std::byte>> expected;
  {
    ra::cuda::Context context(stream);
    for (std::int64_t length = 1; length <= 160; ++length) {
      call(context, tensors.out, length);
      must(cudaStreamSynchronize(stream));
      expected.push_back(tensors.out.bytes());
    }
    for (std::int64_t length = 160; length > 0; --length) call(context, tensors.out, length);
  }
  expect(tensors.out.bytes() == expected.front(), "a context that forgot plans gave other bits");
  std::vector<std::thread> threads;
  for (std::int64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      const Stream own;
      ra::Tensor<float> host_out(tensors.host.shape());
      const DeviceCopy out(host_out.view());
      ra::cuda::Context context(own);
      for (std::int64_t length = 1 + thread; length <= 160; length += 7) {
        call(context, out, length);
        must(cudaStreamSynchronize(own));
        expect(out.bytes() == expected[static_cast<std::size_t>(length - 1)], "threads disturb each other");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

/// A call whose workspace cannot be had leaves its outputs as they were and the context usable.
void check_out_of_memory() {
  const Stream stream;
  ra::cuda::Context context(stream);
  const ra::RingDilatedAttentionV2<float> attention(carrying_config());
  const SelfAttention<float> tensors({1, 90'000, 24, 64});
  const auto view = tensors.input.view();
  const auto call = [&] {
    attention.forward(context, view, view, view, tensors.out.view());
    must(cudaStreamSynchronize(stream));
  };
  const std::size_t bytes = context.workspace_bytes(attention, {1, 90'000, 24, 24, 64});
  cudaMemPool_t pool{};
  must(cudaDeviceGetDefaultMemPool(&pool, context.device()));
  must(cudaDeviceSynchronize());
  must(cudaMemPoolTrimTo(pool, 0));
  std::vector<void*> taken;
  for (std::size_t piece = std::size_t{1} << 36; piece >= bytes / 4; piece /= 2) {
    void* memory = nullptr;
    while (cudaMalloc(&memory, piece) == cudaSuccess) taken.push_back(memory);
    static_cast<void>(cudaGetLastError());
  }
  tensors.out.poison();
  const auto untouched = tensors.out.bytes();
  std::string text = "no error";
  try {
    call();
  } catch (const ra::cuda::OutOfMemory& error) {
    text = error.what();
  }
  expect_text(text, "cudaErrorMemoryAllocation", "out of memory, of " + std::to_string(bytes) + " bytes");
  expect(tensors.out.bytes() == untouched, "a call without memory wrote its output");
  expect(cudaGetLastError() == cudaSuccess, "an error is left for the program's next call");
  for (void* memory : taken) must(cudaFree(memory));
  call();
  expect(tensors.out.bytes() != untouched, "the context does not work any more");
}

/// Which kernel computes is told by the last bits.
template <class Scalar>
void check_chosen_kernels(const std::string& scalar) {
  const Stream stream;
  ra::cuda::Context context(stream);
  if (ra::cuda::available_kernels(context.device()).size() < 2) return;
  const ra::RingDilatedAttentionV2<Scalar> attention(longnet_config());
  for (const std::int64_t head_dim : {64, 63}) {
    const SelfAttention<Scalar> tensors({1, 300, 2, head_dim});
    const auto bits_of = [&](const char* kernel) {
      ra::cuda::set_kernel(kernel);
      const auto view = tensors.input.view();
      attention.forward(context, view, view, view, tensors.out.view());
      must(cudaStreamSynchronize(stream));
      return tensors.out.bytes();
    };
    const auto generic = bits_of("generic"), fast = bits_of("sm80");
    // Rows of 63 numbers are not aligned.
    expect((generic == fast) == (head_dim == 63), scalar + ": set_kernel(\"sm80\") is not what ran");
    expect(bits_of("generic") == generic, scalar + ": set_kernel(\"generic\") is not what ran");
    expect(bits_of("") == fast, scalar + ": the best kernel is not what ran");
  }
  ra::cuda::set_kernel("");
}

void check_errors() {
  const Stream stream;
  ra::cuda::Context context(stream);
  const std::vector<std::string> kernels = ra::cuda::available_kernels(context.device());
  expect(kernels.back() == "generic" && kernels.size() <= 2, "kernels");
  ra::cuda::set_kernel("sm80");
  ra::cuda::set_kernel("generic");
  ra::cuda::set_kernel("");
  expect_text(error_text([] { ra::cuda::set_kernel("avx2"); }), "kernel = \"avx2\": must be empty, or",
              "unknown kernel");
  const ra::RingDilatedAttentionV2<float> attention(longnet_config());
  const SelfAttention<float> wide({1, 4, 1, 257});
  const auto view = wide.input.view();
  expect_text(error_text([&] { attention.forward(context, view, view, view, wide.out.view()); }),
              "q head dimension = 257: must be at most 256", "head dimension");
  expect_text(error_text([&] { attention.forward(context, view, view, view, view); }),
              "must not share memory", "output on an input");
  const ra::cuda::View<float> no_tokens(nullptr, {1, 0, 2, 8});
  attention.forward(context, no_tokens, no_tokens, no_tokens, no_tokens);
  std::string text = "no error";
  try {
    static_cast<void>(ra::cuda::available_kernels(1000));
  } catch (const ra::cuda::Error& error) {
    text = error.what();
  }
  expect_text(text, "cudaErrorInvalidDevice", "unknown device");
}

}  // namespace

void check_calls() {
  check_graphs();
  check_first_calls();
  check_other_captures();
  check_workspaces();
  check_counters();
  check_finite_inputs();
  check_patterns();
  check_many_calls();
  check_out_of_memory();
  check_chosen_kernels<float>("float");
  check_chosen_kernels<Eigen::bfloat16>("bfloat16");
  check_errors();
}

}  // namespace test
