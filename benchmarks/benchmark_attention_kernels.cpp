// Attention against the limit of the processor: GFLOP/s, part of the peak and tokens per second for each
// kernel, scalar, head dimension, direction and number of threads. `--help` lists cases and options.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <ring_attention/ring_attention.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/attention_patterns.hpp"
#include "support/bracketed_samples.hpp"
#include "support/kernel_problem.hpp"
#include "support/kernel_settings.hpp"
#include "support/long_sequences.hpp"
#include "support/machine.hpp"
#include "support/peaks.hpp"
#include "support/results_file.hpp"
#include "support/shared_cores.hpp"
#include "support/statistics.hpp"

namespace {

using namespace benchmarks;

struct Case {
  std::string name;
  std::string kernel;
  Direction direction;
  int threads;
};

/// The cases of one problem that the filter lets through.
std::vector<Case> select_cases(const KernelSettings& settings, const Configuration& configuration,
                               const std::string& scalar, std::int64_t head_dim) {
  std::vector<Case> cases;
  std::vector<std::string> kernels = ra::available_kernels();
  if (configuration.best_kernel_only) {
    if (scalar != "float" && scalar != "bfloat16") return cases;
    kernels.resize(1);
  }
  for (const std::string& kernel : kernels) {
    for (const Direction direction : {Direction::forward, Direction::backward}) {
      for (const int threads : settings.threads) {
        const std::string name = configuration.name + "/" + kernel + "/" + scalar + "/d" +
                                 std::to_string(head_dim) + "/" + to_string(direction) + "/threads" +
                                 std::to_string(threads);
        if (settings.selects(name)) cases.push_back({name, kernel, direction, threads});
      }
    }
  }
  return cases;
}

class Run {
 public:
  Run(const KernelSettings& settings, nlohmann::json about)
      : settings_(settings), results_(std::move(about)), meter_(settings.probe_seconds) {
    results_["results"] = nlohmann::json::array();
  }

  void measure_peaks() {
    const auto [probes, skipped] = all_probes();
    nlohmann::json peaks = nlohmann::json::array();
    for (const PeakProbe& probe : probes) {
      for (const int threads : settings_.threads) {
        std::vector<double> rates;
        for (int i = 0; i < 5; ++i) rates.push_back(meter_.measure(probe, threads) * 1e-9);
        const Summary summary = summarize(rates);
        std::printf("peak %-18s threads %-3d %8.1f GFLOP/s (%.1f to %.1f)\n", probe.name.c_str(), threads,
                    summary.median, summary.minimum, summary.maximum);
        peaks.push_back({{"name", probe.name}, {"threads", threads}, {"gflops", to_json(summary)}});
      }
    }
    for (const std::string& what : skipped) std::printf("peak %s\n", what.c_str());
    results_["peaks"] = std::move(peaks);
    results_["peaks_skipped"] = skipped;
    std::printf("\n%-48s %25s %23s %10s\n", "case", "GFLOP/s", "part of the peak", "tokens/s");
  }

  template <class Scalar>
  void measure(const Configuration& configuration, std::int64_t head_dim, const char* scalar,
               const std::vector<Case>& cases) {
    KernelProblem<Scalar> problem(configuration, head_dim);
    const double pairs = count_pairs(configuration.config, configuration.tokens, configuration.heads);
    for (const Case& what : cases) {
      ra::set_num_threads(what.threads);
      ra::set_kernel(what.kernel);
      nlohmann::json line{{"name", what.name},
                          {"kernel", what.kernel},
                          {"scalar", scalar},
                          {"configuration", configuration.name},
                          {"tokens", configuration.tokens},
                          {"heads", configuration.heads},
                          {"head_dim", head_dim},
                          {"direction", to_string(what.direction)},
                          {"threads", what.threads},
                          {"pairs", pairs},
                          {"flops", count_flops(pairs, head_dim, what.direction)}};
      try {
        line["worst_error_in_tolerances"] = problem.validate(what.direction);
        const PeakProbe probe = matching_probe<Scalar>(what.kernel);
        const BracketedSamples samples =
            take_samples(meter_, probe, what.threads, wanted_samples(configuration),
                         [&] { problem.call(what.direction); });
        line["peak"] = probe.name;
        line["noisy"] = std::ssize(samples.seconds) < wanted_samples(configuration);
        summarize_into(line, samples);
        print(line);
      } catch (const std::runtime_error& error) {
        std::fprintf(stderr, "FAILED %s: %s\n", what.name.c_str(), error.what());
        line["error"] = error.what();
        ++failures_;
      }
      results_["results"].push_back(std::move(line));
    }
  }

  void write(const std::filesystem::path& path) const { write_atomically(path, results_.dump(2) + "\n"); }
  int failures() const { return failures_; }
  std::size_t count() const { return results_["results"].size() + results_.count("shared_cores"); }

  void measure_shared_cores() { results_["shared_cores"] = benchmarks::measure_shared_cores(5); }
  void measure_long_sequences() { results_["long"] = benchmarks::measure_long_sequences(failures_); }

 private:
  int wanted_samples(const Configuration& configuration) const {
    return configuration.best_kernel_only ? settings_.best_kernel_samples : settings_.samples;
  }

  void summarize_into(nlohmann::json& line, const BracketedSamples& samples) {
    line["samples_dropped"] = samples.dropped;
    if (samples.seconds.empty()) return;
    const double flops = line["flops"];
    const double tokens = line["tokens"];
    std::vector<double> gflops, parts, tokens_per_second;
    for (std::size_t i = 0; i < samples.seconds.size(); ++i) {
      gflops.push_back(flops / samples.seconds[i] * 1e-9);
      parts.push_back(flops / samples.seconds[i] / samples.peak[i]);
      tokens_per_second.push_back(tokens / samples.seconds[i]);
    }
    line["seconds"] = to_json(summarize(samples.seconds));
    line["gflops"] = to_json(summarize(gflops));
    line["peak_gflops"] = summarize(samples.peak).median * 1e-9;
    line["part_of_peak"] = to_json(summarize(parts));
    line["tokens_per_second"] = to_json(summarize(tokens_per_second));
    const double part = summarize(parts).median;
    if (line["threads"] == 1) {
      one_thread_ = {line["name"], part};
    } else if (is_one_thread_of(line)) {
      line["thread_gain_over_peak_gain"] = part / one_thread_.second;
    }
  }

  /// Whether the last case with one thread is that of this one with more.
  bool is_one_thread_of(const nlohmann::json& line) const {
    const std::string name = line["name"];
    const std::size_t end = name.rfind("/threads");
    return one_thread_.first.compare(0, one_thread_.first.rfind("/threads"), name, 0, end) == 0;
  }

  static void print(const nlohmann::json& line) {
    const auto range = [&line](const char* key, const char* format) -> std::string {
      if (!line.contains(key)) return "-";
      char text[64];
      std::snprintf(text, sizeof text, format, line[key]["median"].get<double>(),
                    line[key]["minimum"].get<double>(), line[key]["maximum"].get<double>());
      return text;
    };
    std::printf("%-48s %25s %23s %10s", line["name"].get<std::string>().c_str(),
                range("gflops", "%.1f (%.1f to %.1f)").c_str(),
                range("part_of_peak", "%.3f (%.3f to %.3f)").c_str(),
                range("tokens_per_second", "%.0f").c_str());
    if (line.contains("thread_gain_over_peak_gain")) {
      std::printf("  threads gain %.2f of what the peak does",
                  line["thread_gain_over_peak_gain"].get<double>());
    }
    if (line["noisy"]) std::printf("  noisy: %d samples dropped", line["samples_dropped"].get<int>());
    std::printf("\n");
    std::fflush(stdout);
  }

  const KernelSettings& settings_;
  nlohmann::json results_;
  PeakMeter meter_;
  std::pair<std::string, double> one_thread_;  ///< the last case with one thread, and its part of the peak
  int failures_ = 0;
};

/// Calls action.template operator()<Scalar>(name) for each scalar.
template <class Action>
void for_each_scalar(const Action& action) {
  action.template operator()<float>("float");
  action.template operator()<Eigen::bfloat16>("bfloat16");
  action.template operator()<Eigen::half>("half");
  action.template operator()<double>("double");
}

int run(const KernelSettings& settings) {
  const std::string timestamp = utc_timestamp();
  const std::filesystem::path json = !settings.json.empty()
                                         ? settings.json
                                         : std::filesystem::read_symlink("/proc/self/exe").parent_path() /
                                               ("benchmark_attention_kernels_results-" + timestamp + ".json");
  Run measured(settings, {{"timestamp", timestamp},
                          {"commit", describe_commit()},
                          {"machine", describe_machine()},
                          {"build", describe_build()},
                          {"settings",
                           {{"quick", settings.quick},
                            {"long", settings.long_sequences},
                            {"filters", settings.filters},
                            {"samples", settings.samples},
                            {"best_kernel_samples", settings.best_kernel_samples},
                            {"class", "RingDilatedAttentionV2"},
                            {"flops", "4 * d * pairs forward, 2.5 times that backward"},
                            {"bracket_tolerance", bracket_tolerance},
                            {"slow_peak", slow_peak},
                            {"clock", "steady"}}},
                          {"kernels", ra::available_kernels()}});
  if (settings.long_sequences) {
    measured.measure_long_sequences();
    measured.write(json);
    std::printf("\nresults: %s\n", json.string().c_str());
    return measured.failures() == 0 ? 0 : 1;
  }
  if (!settings.list) measured.measure_peaks();
  for (const Configuration& configuration : settings.configurations) {
    for (const std::int64_t head_dim : configuration.head_dims) {
      for_each_scalar([&]<class Scalar>(const char* scalar) {
        const std::vector<Case> cases = select_cases(settings, configuration, scalar, head_dim);
        if (settings.list) {
          for (const Case& what : cases) std::printf("%s\n", what.name.c_str());
        } else if (!cases.empty()) {
          measured.measure<Scalar>(configuration, head_dim, scalar, cases);
          measured.write(json);  // a run takes long: what is there is kept
        }
      });
    }
  }
  if (settings.selects("shared-cores")) {
    if (settings.list) {
      std::printf("shared-cores\n");
    } else {
      measured.measure_shared_cores();
      measured.write(json);
    }
  }
  if (settings.list) return 0;
  if (measured.count() == 0) {
    std::fprintf(stderr, "no case matches --filter (see --list)\n");
    return 1;
  }
  std::printf("\nresults: %s\n", json.string().c_str());
  return measured.failures() == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc > 1 && argv[1] == long_sequence_argument) return run_long_sequence(argc, argv);
    const KernelSettings settings = parse_kernel_settings(argc, argv);
    if (settings.help) {
      std::fputs(kernel_help_text, stdout);
      return 0;
    }
    return run(settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "benchmark_attention_kernels: %s\n", error.what());
    return 1;
  }
}
