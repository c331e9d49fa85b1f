// Attention against the limit of the processor or the GPU: GFLOP/s and part of the peak for each kernel,
// scalar, head dimension, direction and number of threads. `--help` lists cases and options.
#include <barrier>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <ring_attention/ring_attention.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/kernel_problem.hpp"
#include "support/measuring.hpp"
#include "support/peaks.hpp"
#include "support/problems.hpp"
#include "support/program.hpp"
#include "support/results.hpp"
#if defined(RING_ATTENTION_CUDA_COMPILED)
#include "support/gpu_problem.hpp"
#endif

namespace {

using namespace benchmarks;

constexpr const char* help_text =
    R"(benchmark_attention_kernels: attention against the limit of the processor, or of a GPU

usage: benchmark_attention_kernels [--device cpu|cuda] [--quick] [--filter TEXT[,TEXT...]] [--samples N] [--json FILE]

For each kernel that the library has for this processor, each scalar (float, double, half, bfloat16), head dimension
(24, 32, 48, 64, 80, 96, 128), forward and backward, with one thread and with all:
  dense-2048x2      2,048 tokens, 2 heads, every query meets every key
  longnet-4096x2    segments of 2,048 to 32,768 tokens at rates 1 to 16, longnet_preset
  gigapath-2500x4   heads of 48, the segments and rates of Prov-GigaPath, torchscale_preset
and for the best kernel, of float and bfloat16, the same at the sizes that are published or few units of work:
  dense-2048x1, dense-2048x8, dense-1024x1, dense-1024x8, longnet-16384x12 (heads of 64), gigapath-10000x16
  blocks1-8192x4 to blocks64-8192x4   block-sparse: every block of 64 tokens sees that many blocks
it prints GFLOP/s, what part that is of the peak of the kernel's instructions, and tokens per second. At the end,
shared-cores shows the work per second with several callers at once and with more threads than cores.

With --device cuda the same of the kernels that the library has for the current GPU, forward alone, between events:
  dense-8192x16, causal-8192x16 (heads of 64 and 128), longnet-16384x12 (heads of 64), gigapath-10000x16
  longnet-262144x12 (heads of 64) and blocks1-8192x4 to blocks64-8192x4 for the best kernel, float and bfloat16
The peak is that of mma.sync on the tensor cores for 16-bit scalars and, a third of that of TF32, for float; for double
and for the kernel generic it is that of multiply-adds. It needs a build with -DRING_ATTENTION_BUILD_CUDA_COMPILED=ON.

  --device NAME    cpu (default) or cuda
  --quick          head dimensions 64 and 128 (gigapath: 48), the smaller sizes alone: a few minutes in place of about
                   a quarter of an hour
  --filter TEXT    only cases whose name contains TEXT; of several texts, separated by commas, every one. Names are
                   as longnet-4096x2/avx512/float/d64/forward/threads1 (on a GPU without threads), and shared-cores
  --samples N      samples of a case that must count (default 3; for the best kernel 7)
  --json FILE      where the results go (default: benchmark_attention_kernels_results-<UTC time>.json beside this
                   program)
  --help

Figures are medians with the range of the samples that count: samples are dropped if the peaks measured before and after
one differ by more than 7 %, or are more than 20 % below the best of the run. "noisy" marks cases that have fewer than
asked for. Operations: 4 * d * query-key pairs forward, 2.5 times that backward.

Every case is first checked against a float64 computation of a few queries, backward with the gradients of all keys
that they see, within the library's tolerances. Exit status 0 only if every check held.
)";

struct Settings {
  bool quick = false;
  int samples = 3, best_kernel_samples = 7;
  NameFilter selects{""};
  std::vector<int> threads{1};
  std::vector<Configuration> configurations;
};

/// Calls on the host's threads. Such a type says what differs between devices.
struct OnProcessor {
  template <class Scalar>
  using Problem = KernelProblem<Scalar>;

  static constexpr bool has_threads = true, has_backward = true;
  // Short calls are repeated: the first has to wake up threads that slept during the probe.
  static constexpr double least_sample_seconds = 0.06;

  static std::vector<std::string> kernels() { return ra::available_kernels(); }
  static void choose(const std::string& kernel, int threads) {
    ra::set_num_threads(threads);
    ra::set_kernel(kernel);
  }
  template <class Scalar>
  static bool serves(const std::string&) {
    return true;
  }
  template <class Scalar>
  static PeakProbe probe(const std::string& kernel) {
    return matching_probe<Scalar>(kernel);
  }
  static std::map<std::string, PeakProbe> probes() { return all_probes(); }

  static std::vector<Configuration> configurations(bool quick, const std::vector<std::int64_t>& head_dims) {
    std::vector<Configuration> all{dense(2048, 2, head_dims), longnet(4096, 2, head_dims),
                                   gigapath(2500, 4, {48})};
    if (quick) return all;
    for (Configuration large : {dense(2048, 1, {64, 128}), dense(2048, 8, {64, 128}), dense(1024, 1, {64}),
                                dense(1024, 8, {64}), longnet(16384, 12, {64}), gigapath(10000, 16, {48})}) {
      large.best_kernel_only = true;
      all.push_back(large);
    }
    return all;
  }
  static void describe(nlohmann::json&) {}
};

/// Throws command_line::Error.
template <class Device>
Settings parse(const command_line::Arguments& arguments) {
  Settings settings;
  settings.quick = arguments.has("--quick");
  settings.selects = NameFilter(arguments.text("--filter"));
  if (Device::has_threads && ra::num_threads() > 1) settings.threads.push_back(ra::num_threads());
  std::vector<std::int64_t> head_dims{24, 32, 48, 64, 80, 96, 128};
  if (settings.quick) head_dims = {64, 128};
  settings.configurations = Device::configurations(settings.quick, head_dims);
  for (const std::int64_t count : {1, 2, 4, 8, 16, 32, 64}) {
    settings.configurations.push_back(blocks(count, settings.quick ? 4096 : 8192, 4, {64}));
    settings.configurations.back().best_kernel_only = true;
  }
  if (const auto samples = arguments.positive<int>("--samples")) {
    settings.samples = settings.best_kernel_samples = *samples;
  }
  return settings;
}

struct Case {
  std::string name, kernel;
  Direction direction;
  int threads;
};

/// The cases of one problem that the filter lets through.
template <class Device, class Scalar>
std::vector<Case> select_cases(const Settings& settings, const Configuration& configuration,
                               const std::string& scalar, std::int64_t head_dim) {
  std::vector<Case> cases;
  std::vector<std::string> kernels = Device::kernels();
  if (configuration.best_kernel_only) {
    if (scalar != "float" && scalar != "bfloat16") return cases;
    kernels.resize(1);
  }
  for (const std::string& kernel : kernels) {
    if (!Device::template serves<Scalar>(kernel)) continue;
    for (const Direction direction : {Direction::forward, Direction::backward}) {
      if (direction == Direction::backward && !Device::has_backward) continue;
      for (const int threads : settings.threads) {
        std::string name = configuration.name + "/" + kernel + "/" + scalar + "/d" +
                           std::to_string(head_dim) + "/" + to_string(direction);
        if (Device::has_threads) name += "/threads" + std::to_string(threads);
        if (settings.selects(name)) cases.push_back({name, kernel, direction, threads});
      }
    }
  }
  return cases;
}

std::string ranged(const Summary& summary, const char* form) {
  char text[96];
  std::snprintf(text, sizeof text, form, summary.median, summary.minimum, summary.maximum);
  return text;
}

template <class Device>
nlohmann::json measure_peaks(const std::vector<int>& thread_counts, PeakMeter& meter) {
  nlohmann::json peaks = nlohmann::json::array();
  for (const auto& [name, probe] : Device::probes()) {
    for (const int threads : thread_counts) {
      std::vector<double> rates;
      for (int i = 0; i < 5; ++i) rates.push_back(meter.measure(probe, threads) * 1e-9);
      const Summary gflops = summarize(rates);
      const std::string of = Device::has_threads ? "threads " + std::to_string(threads) : std::string();
      std::printf("peak %-18s %-11s %s GFLOP/s\n", name.c_str(), of.c_str(),
                  ranged(gflops, "%.1f (%.1f to %.1f)").c_str());
      peaks.push_back({{"name", name}, {"gflops", gflops}});
      if (Device::has_threads) peaks.back()["threads"] = threads;
    }
  }
  return peaks;
}

/// Adds the figures of a case to its line.
template <class Device, class Scalar>
void measure_case(const Case& what, int wanted, typename Device::template Problem<Scalar>& problem,
                  PeakMeter& meter, nlohmann::json& line) {
  const PeakProbe probe = Device::template probe<Scalar>(what.kernel);
  const double one_call = problem.seconds_of_calls(what.direction, 1);
  const auto calls = static_cast<int>(std::clamp(Device::least_sample_seconds / one_call, 1.0, 1e6));
  const auto taken = take_bracketed(
      wanted, 0.8, meter.best(probe, what.threads),
      [&] { return problem.seconds_of_calls(what.direction, calls); },
      [&] { return meter.measure(probe, what.threads); });
  std::vector<double> gflops, parts;
  for (std::size_t i = 0; i < taken.samples.size(); ++i) {
    const double rate = line["flops"].get<double>() / taken.samples[i];
    gflops.push_back(rate * 1e-9);
    parts.push_back(rate / taken.peaks[i]);
  }
  line["seconds"] = summarize(taken.samples);
  line["gflops"] = summarize(gflops);
  line["part_of_peak"] = summarize(parts);
  line["peak"] = probe.name;
  line["noisy"] = taken.noisy;
  std::printf("%-48s %25s %23s %10.0f%s\n", what.name.c_str(),
              ranged(summarize(gflops), "%.1f (%.1f to %.1f)").c_str(),
              ranged(summarize(parts), "%.3f (%.3f to %.3f)").c_str(),
              line["tokens"].get<double>() / summarize(taken.samples).median, taken.noisy ? "  noisy" : "");
  std::fflush(stdout);
}

/// Adds a line for each case to `results`, and returns how many failed their check.
template <class Device, class Scalar>
int measure_problem(const Settings& settings, const Configuration& configuration, std::int64_t head_dim,
                    const char* scalar, const std::vector<Case>& cases, PeakMeter& meter,
                    nlohmann::json& results) {
  typename Device::template Problem<Scalar> problem(configuration, head_dim);
  const double pairs = count_pairs(configuration.config, configuration.tokens, configuration.heads);
  int failures = 0;
  for (const Case& what : cases) {
    Device::choose(what.kernel, what.threads);
    nlohmann::json line{{"name", what.name},
                        {"kernel", what.kernel},
                        {"scalar", scalar},
                        {"configuration", configuration.name},
                        {"tokens", configuration.tokens},
                        {"head_dim", head_dim},
                        {"direction", to_string(what.direction)},
                        {"flops", count_flops(pairs, head_dim, what.direction)}};
    if (Device::has_threads) line["threads"] = what.threads;
    try {
      line["worst_error_in_tolerances"] = problem.validate(what.direction);
      measure_case<Device, Scalar>(
          what, configuration.best_kernel_only ? settings.best_kernel_samples : settings.samples, problem,
          meter, line);
    } catch (const std::runtime_error& error) {
      std::fprintf(stderr, "FAILED %s: %s\n", what.name.c_str(), error.what());
      line["error"] = error.what();
      ++failures;
    }
    results.push_back(std::move(line));
  }
  return failures;
}

/// Calls of one problem per second by several callers at once, each with all threads, and with more threads
/// than cores, relative to one caller. Measured in turn, so that what disturbs one disturbs all.
nlohmann::json measure_shared_cores() {
  struct Way {
    const char* name;
    int callers, threads;
  };
  const int cores = ra::num_threads(), calls = 40, rounds = 5;
  const Way ways[]{{"one caller, a thread per core", 1, cores},
                   {"4 callers, each a thread per core", 4, cores},
                   {"one caller, 4 threads per core", 1, 4 * cores},
                   {"4 callers, each 4 threads per core", 4, 4 * cores}};
  std::deque<KernelProblem<float>> problems;
  for (int i = 0; i < 4; ++i) problems.emplace_back(dense(1024, 2, {64}), 64).validate(Direction::backward);
  nlohmann::json results = nlohmann::json::array();
  for (const Direction direction : {Direction::forward, Direction::backward}) {
    std::vector<std::vector<double>> rates(std::size(ways));
    for (int round = 0; round < rounds; ++round) {
      for (std::size_t way = 0; way < std::size(ways); ++way) {
        ra::set_num_threads(ways[way].threads);
        std::barrier start(ways[way].callers + 1);
        std::vector<std::jthread> callers;
        for (int i = 0; i < ways[way].callers; ++i) {
          callers.emplace_back([&, &problem = problems[static_cast<std::size_t>(i)]] {
            start.arrive_and_wait();
            for (int call = 0; call < calls / ways[way].callers; ++call) problem.call(direction);
          });
        }
        start.arrive_and_wait();
        rates[way].push_back(calls / seconds_of([&] { callers.clear(); }) /
                             (way == 0 ? 1.0 : rates[0].back()));
      }
    }
    for (std::size_t way = 1; way < std::size(ways); ++way) {
      const Summary ratio = summarize(rates[way]);
      std::printf("%-36s %-9s %s of the work per second of one caller\n", ways[way].name,
                  to_string(direction).c_str(), ranged(ratio, "%.2f (%.2f to %.2f)").c_str());
      results.push_back({{"name", ways[way].name},
                         {"direction", to_string(direction)},
                         {"calls_per_second_over_one_caller", ratio}});
    }
  }
  return results;
}

/// Calls action.template operator()<Scalar>(name) for each scalar.
template <class Action>
void for_each_scalar(const Action& action) {
  action.template operator()<float>("float");
  action.template operator()<Eigen::bfloat16>("bfloat16");
  action.template operator()<Eigen::half>("half");
  action.template operator()<double>("double");
}

template <class Device>
int run(const command_line::Arguments& arguments, nlohmann::json results) {
  const Settings settings = parse<Device>(arguments);
  Device::describe(results);
  const std::filesystem::path path = results_path(arguments.text("--json"), results["timestamp"]);
  const int all_threads = ra::num_threads();
  const std::string best_kernel = Device::kernels().front();
  PeakMeter meter(0.01);
  int failures = 0;
  results["peaks"] = measure_peaks<Device>(settings.threads, meter);
  std::printf("\n%-48s %25s %23s %10s\n", "case", "GFLOP/s", "part of the peak", "tokens/s");
  results["results"] = nlohmann::json::array();
  for (const Configuration& configuration : settings.configurations) {
    for (const std::int64_t head_dim : configuration.head_dims) {
      for_each_scalar([&]<class Scalar>(const char* scalar) {
        const auto cases = select_cases<Device, Scalar>(settings, configuration, scalar, head_dim);
        if (cases.empty()) return;
        failures += measure_problem<Device, Scalar>(settings, configuration, head_dim, scalar, cases, meter,
                                                    results["results"]);
        write_results(path, results);  // a run takes long: what is there is kept
      });
    }
  }
  if (Device::has_threads && settings.selects("shared-cores")) {
    Device::choose(best_kernel, all_threads);
    results["shared_cores"] = measure_shared_cores();
  } else if (results["results"].empty()) {
    throw command_line::Error("no case matches --filter");
  }
  write_results(path, results);
  std::printf("\nresults: %s\n", path.string().c_str());
  return failures == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const char* const name = "benchmark_attention_kernels";
  const auto start = [&](const command_line::Arguments& arguments) {
    nlohmann::json results = describe_run();
    results["command"] = command_of(name, argc, argv);
    bool on_gpu = false;
    arguments.choose<bool>("--device", {{"cpu", false}, {"cuda", true}}, on_gpu);
    if (!on_gpu) return run<OnProcessor>(arguments, std::move(results));
#if defined(RING_ATTENTION_CUDA_COMPILED)
    return run<gpu::OnGpu>(arguments, std::move(results));
#else
    throw command_line::Error(
        "--device cuda: this program was built without "
        "-DRING_ATTENTION_BUILD_CUDA_COMPILED=ON");
#endif
  };
  return run_program(name, help_text, argc, argv, {"--device", "--filter", "--samples", "--json"},
                     {"--quick"}, start);
}
