// What a run of benchmark_attention_kernels measures, and the command line that says so.
#pragma once

#include <cstdint>
#include <filesystem>
#include <ring_attention/parallel.hpp>
#include <string>
#include <vector>

#include "../../examples/support/command_line.hpp"
#include "attention_patterns.hpp"

namespace benchmarks {

struct KernelSettings {
  bool help = false;
  bool list = false;
  bool quick = false;
  bool long_sequences = false;
  std::vector<std::string> filters;  ///< every one must be found in the name of a case
  std::filesystem::path json;        ///< empty: a name with the time, beside the program
  int samples = 3;
  int best_kernel_samples = 7;
  double probe_seconds = 0.01;
  std::vector<int> threads;
  std::vector<Configuration> configurations;

  bool selects(const std::string& name) const {
    return std::all_of(filters.begin(), filters.end(),
                       [&name](const std::string& filter) { return name.find(filter) != name.npos; });
  }
};

inline constexpr const char* kernel_help_text =
    R"(benchmark_attention_kernels: attention against the limit of the processor

usage: benchmark_attention_kernels [--quick] [--filter TEXT[,TEXT...]] [--samples N] [--json FILE] [--list | --long]

For each kernel that the library has for this processor, each scalar (float, double, half, bfloat16), head dimension
(24, 32, 48, 64, 80, 96, 128), forward and backward, with one thread and with all:
  dense-2048x2      2,048 tokens, 2 heads, every query meets every key
  longnet-4096x2    segments of 2,048 to 32,768 tokens at rates 1 to 16, longnet_preset
  gigapath-2500x4   heads of 48, the segments and rates of Prov-GigaPath, torchscale_preset
and for the best kernel, of float and bfloat16, the same at the sizes that are published or few units of work:
  dense-2048x1, dense-2048x8, dense-1024x1, dense-1024x8, longnet-16384x12 (heads of 64), gigapath-10000x16
it tells GFLOP/s, what part that is of the peak of the kernel's instructions, tokens per second, and for all threads how
their gain compares with what the peak gains. At the end, as shared-cores, it tells what becomes of the
work per second with several callers at once and with more threads than cores.

  --quick          head dimensions 64 and 128 (gigapath: 48), the smaller sizes alone, fewer samples: a few minutes in
                   place of about a quarter of an hour
  --long           in place of all that: tokens per second and peak memory of LongNet at 65,536 and 1,048,576 tokens, 12
                   heads of 64, bfloat16; needs 7 GB of memory
  --filter TEXT    only cases whose name contains TEXT; of several texts, separated by commas, every one. Names are
                   as longnet-4096x2/avx512/float/d64/forward/threads1, and shared-cores
  --list           print the names and end
  --samples N      samples of a case that must count (default 3; for the best kernel 7)
  --json FILE      where the results go (default: benchmark_attention_kernels_results-<UTC time>.json beside this
                   program)
  --help

Operations: 4 * d * query-key pairs forward, 2.5 times that backward; pairs are counted from the patterns, summed over
heads and branches. Peak: a loop of multiply-adds on registers (float and double in vectors of each instruction set;
bfloat16 also by AVX512-BF16 and AMX), with as many threads. It is measured before and after each sample; samples whose
two peaks differ by more than 7 %, or are more than 20 % below the best of the run, are dropped. Figures are medians
with the range of the samples that count; "noisy" marks cases that have fewer of them than asked for.

Every case is first checked against a float64 computation of a few queries, backward with the gradients of all keys
that they see, within the library's tolerances. Exit status 0 only where every check held.
)";

/// Throws command_line::Error.
inline KernelSettings parse_kernel_settings(int argc, const char* const* argv) {
  const command_line::Arguments arguments(argc, argv, {"--filter", "--samples", "--json"},
                                          {"--quick", "--list", "--long", "--help", "-h"});
  KernelSettings settings;
  settings.help = arguments.has("--help") || arguments.has("-h");
  settings.list = arguments.has("--list");
  settings.quick = arguments.has("--quick");
  settings.long_sequences = arguments.has("--long");
  settings.json = arguments.text("--json");
  for (std::string rest = arguments.text("--filter"); !rest.empty();) {
    const std::size_t comma = std::min(rest.find(','), rest.size());
    settings.filters.push_back(rest.substr(0, comma));
    rest.erase(0, comma + 1);
  }
  settings.threads = {1};
  if (ra::num_threads() > 1) settings.threads.push_back(ra::num_threads());
  const std::vector<std::int64_t> head_dims = settings.quick
                                                  ? std::vector<std::int64_t>{64, 128}
                                                  : std::vector<std::int64_t>{24, 32, 48, 64, 80, 96, 128};
  settings.configurations = {dense(2048, 2, head_dims), longnet(4096, 2, head_dims), gigapath(2500, 4, {48})};
  if (!settings.quick) {
    for (Configuration large : {dense(2048, 1, {64, 128}), dense(2048, 8, {64, 128}), dense(1024, 1, {64}),
                                dense(1024, 8, {64}), longnet(16384, 12, {64}), gigapath(10000, 16, {48})}) {
      large.best_kernel_only = true;
      settings.configurations.push_back(large);
    }
  }
  settings.samples = arguments.number<int>("--samples").value_or(settings.samples);
  if (arguments.has("--samples")) settings.best_kernel_samples = settings.samples;
  if (settings.samples < 1) throw command_line::Error("--samples must be positive");
  return settings;
}

}  // namespace benchmarks
