// Dilated attention of one length in a process of its own, for compare_lengths.py: seconds of calls and peak
// memory.
// `--help` tells the options.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <ring_attention/ring_attention.hpp>
#include <vector>

#include "../examples/support/command_line.hpp"
#include "support/child_process.hpp"
#include "support/clock.hpp"
#include "support/machine.hpp"

namespace {

namespace ra = ring_attention;

constexpr const char* help_text =
    R"(attention_at_length: dilated attention of one length, as LongNet has it: time and memory

usage: attention_at_length --tokens N --segments W,W,... --rates R,R,... [options]

Makes q, k and v of random numbers (float, batch 1), calls forward of RingDilatedAttentionV2 with longnet_preset, and
prints one line of JSON: seconds of each call that counts, and peak resident memory above what the process held before.

  --heads N         default 4
  --head-dim N      default 64
  --threads N       default: every core
  --long-call S     a first call that takes longer (seconds) counts and is the only one; otherwise it warms up
                    (default 5)
  --total S         calls are repeated until they took this long together, 3 to 9 times (default 2)
  --help
)";

ra::Tensor<float> random_numbers(const ra::Shape& shape, std::uint32_t state) {
  ra::Tensor<float> tensor(shape);
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    state = state * 1664525U + 1013904223U;
    tensor.data()[i] = static_cast<float>(state >> 8) * 0x1p-23F - 1.0F;  // uniform in [-1, 1)
  }
  return tensor;
}

void run(const command_line::Arguments& arguments) {
  const auto number = [&](const char* name, std::int64_t otherwise) {
    return arguments.number<std::int64_t>(name).value_or(otherwise);
  };
  const ra::Shape shape{1, number("--tokens", 0), number("--heads", 4), number("--head-dim", 64)};
  if (shape[1] < 1) throw command_line::Error("--tokens must be positive");
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = arguments.list("--segments");
  config.dilation_rates = arguments.list("--rates");
  ra::set_num_threads(static_cast<int>(number("--threads", ra::num_threads())));
  const double long_call = static_cast<double>(number("--long-call", 5));
  const double enough = static_cast<double>(number("--total", 2));

  const auto before = benchmarks::peak_resident_bytes();
  const ra::Tensor<float> q = random_numbers(shape, 1), k = random_numbers(shape, 2),
                          v = random_numbers(shape, 3);
  ra::Tensor<float> out(shape);
  const ra::RingDilatedAttentionV2<float> attention(config);
  const auto call = [&] { return benchmarks::seconds_of([&] { attention.forward(q, k, v, out); }); };
  std::vector<double> seconds{call()};
  if (seconds.front() < long_call) {
    seconds.clear();
    double total = 0.0;
    while (seconds.size() < 3 || (total < enough && seconds.size() < 9)) {
      seconds.push_back(call());
      total += seconds.back();
    }
  }
  const auto after = benchmarks::peak_resident_bytes();
  nlohmann::json result{{"seconds", seconds},
                        {"kernel", ra::available_kernels().front()},
                        {"tensor_bytes", 4 * q.size() * static_cast<std::int64_t>(sizeof(float))},
                        {"peak_minus_baseline_bytes", nullptr},
                        {"build", benchmarks::describe_build()}};
  if (before && after) result["peak_minus_baseline_bytes"] = *after - *before;
  std::printf("%s\n", result.dump().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const command_line::Arguments arguments(
        argc, argv,
        {"--tokens", "--segments", "--rates", "--heads", "--head-dim", "--threads", "--long-call", "--total"},
        {"--help", "-h"});
    if (arguments.has("--help") || arguments.has("-h")) {
      std::fputs(help_text, stdout);
    } else {
      run(arguments);
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "attention_at_length: %s\n", error.what());
    return 1;
  }
}
