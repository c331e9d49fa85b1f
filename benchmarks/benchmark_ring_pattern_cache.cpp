// What the pattern cache gains and what it does not: RingDilatedAttentionV2 in full and the other attention
// classes at one size, with the global cache, local caches and none, cold and warm. `--help` lists the
// options; the results file holds Google Benchmark's fields and more.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/cache_cases.hpp"
#include "support/cache_layers.hpp"
#include "support/cache_memory.hpp"
#include "support/measuring.hpp"
#include "support/program.hpp"
#include "support/results.hpp"

namespace {

using namespace benchmarks;

constexpr double lookup_ratio_limit = 2.0;

constexpr const char* help_text =
    R"(benchmark_ring_pattern_cache: what the pattern cache of RingDilatedAttentionV2 gains, and what it does not

usage: benchmark_ring_pattern_cache [--quick] [--out DIR] [--threads N] [--repetitions N]

  --quick          fewer and smaller heads, fewer repetitions, every sequence length (a minute or two on 2 cores)
  --out DIR        where the results go (default: beside this program)
  --threads N      threads of a forward call (default: every core)
  --repetitions N  of every case
  --benchmark_filter=REGEX      time only the cases whose name matches
  --benchmark_context=KEY=TEXT  a remark for the results
  --help

It checks that use_pattern_cache (global), use_local_cache (local) and use_no_cache (none) give bitwise equal outputs,
then measures peak memory (a process per case), patterns, lookups, a model's first forward, and cold and warm forward
calls. Results: benchmark_ring_pattern_cache_results-<UTC time>.json, in Google Benchmark's format with more members.
Exit status 0 only if every output was right and a warm lookup of the global cache takes at most twice as long as one
of a local cache.
)";

/// Throws command_line::Error.
CacheSettings parse(const command_line::Arguments& arguments) {
  CacheSettings settings;
  settings.quick = arguments.has("--quick");
  settings.filter = arguments.text("--benchmark_filter");
  if (settings.quick) {
    settings.heads = 3;
    settings.head_dim = 8;
    settings.forward_seconds = 35.0;
    settings.model_seconds = 20.0;
    settings.small_repetitions = 5;
    settings.small_seconds = 0.02;
  }
  if (arguments.has("--repetitions")) {
    const int repetitions = *arguments.number<int>("--repetitions");
    if (repetitions < 1) throw command_line::Error("--repetitions must be positive");
    settings.forward_repetitions = settings.model_repetitions = settings.small_repetitions = repetitions;
  }
  if (arguments.has("--threads")) ra::set_num_threads(*arguments.number<int>("--threads"));
  settings.threads = ra::num_threads();
  return settings;
}

/// Medians, without the description of the machine, which would come before every group.
class Console : public benchmark::ConsoleReporter {
 public:
  Console() : ConsoleReporter(OO_None) {}
  bool ReportContext(const Context& context) override {
    name_field_width_ = context.name_field_width;
    return true;
  }
  void ReportRuns(const std::vector<Run>& runs) override {
    std::vector<Run> medians;
    std::ranges::copy_if(runs, std::back_inserter(medians),
                         [](const Run& run) { return run.aggregate_name == "median"; });
    ConsoleReporter::ReportRuns(medians);
  }
};

/// Google Benchmark's JSON of all cases, a group at a time, so that the repetitions of cases that are
/// compared are interleaved at random. What it derives from repetitions, reports derive again.
nlohmann::json run_cases(const CacheCases& cases, const std::string& context,
                         const std::filesystem::path& scratch) {
  // It reads its settings from a command line, and keeps a pointer to the program's name: no path, since that
  // goes into the results.
  static std::vector<std::string> words{"benchmark_ring_pattern_cache",
                                        "--benchmark_enable_random_interleaving=true",
                                        "--benchmark_display_aggregates_only=true",
                                        "--benchmark_out_format=json", "--benchmark_out=" + scratch.string()};
  if (!context.empty()) words.push_back("--benchmark_context=" + context);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  auto count = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  benchmark::Initialize(&count, arguments.data());
  nlohmann::json all{{"benchmarks", nlohmann::json::array()}};
  for (const std::string& group : cases.groups()) {
    Console console;
    benchmark::RunSpecifiedBenchmarks(&console, nullptr, "^" + group);
    const nlohmann::json made = nlohmann::json::parse(std::ifstream(scratch));
    all["context"] = made["context"];
    for (const nlohmann::json& line : made["benchmarks"]) {
      if (line["run_type"] == "iteration") all["benchmarks"].push_back(line);
    }
  }
  std::filesystem::remove(scratch);
  all["context"]["host_name"] = "withheld";
  return all;
}

/// What went wrong: cases that stopped, and a warm lookup of the global cache that takes too long beside one
/// of a local cache; minima, which a busy machine disturbs least.
std::vector<std::string> find_errors(const nlohmann::json& results) {
  std::vector<std::string> errors;
  std::map<std::string, double> fastest;
  for (const nlohmann::json& line : results["benchmarks"]) {
    const std::string name = line["name"];
    if (line.value("error_occurred", false)) {
      errors.push_back(name + ": " + line.value("error_message", ""));
    } else if (name.starts_with("lookup/contenders:1/")) {
      const std::string policy = name.substr(0, name.find('/', name.find("policy:")));
      const double time = line["real_time"];
      double& least = fastest.try_emplace(policy.substr(policy.find("policy:")), time).first->second;
      least = std::min(least, time);
    }
  }
  if (fastest.contains("policy:global")) {
    const double ratio = fastest["policy:global"] / fastest["policy:local"];
    std::printf("\nwarm lookup, global / local: %.3f (limit %.1f)\n", ratio, lookup_ratio_limit);
    if (!(ratio <= lookup_ratio_limit)) errors.push_back("warm lookup ratio above the limit");
  }
  return errors;
}

void announce(const std::string& what) { std::fprintf(stderr, "== %s\n", what.c_str()); }

/// As many repetitions of the long cases as their seconds allow, from what a call of each problem took.
void choose_repetitions(CacheSettings& settings, double seconds_of_all, double seconds_of_layer) {
  const auto choose = [](int& repetitions, double seconds, double round, int least, int most) {
    if (repetitions == 0)
      repetitions = std::clamp(static_cast<int>(seconds / std::max(round, 1e-9)), least, most);
  };
  const int cases = 2 * static_cast<int>(policies.size());  // cold and warm
  choose(settings.forward_repetitions, settings.forward_seconds, seconds_of_all * cases, 5, 9);
  choose(settings.model_repetitions, settings.model_seconds, seconds_of_layer * settings.model_layers * 3, 3,
         7);
}

int run(CacheSettings settings, const command_line::Arguments& arguments, const std::string& command) {
  nlohmann::json results = describe_run();
  Buffers buffers(settings.lengths.back(), settings.heads, settings.head_dim);
  announce("every class gives equal bits under every policy, and what V2 gives");
  const auto [problems, seconds] = verify_problems(settings, buffers);
  const Layer layer = policies.front().make_layer("V2", settings.ring_sizes.front(), buffers);
  choose_repetitions(settings, seconds, seconds_of([&] { layer.forward(settings.lengths.front()); }));

  announce("peak memory, one process per case");
  const nlohmann::json memory = measure_memory(settings);
  announce("a large pattern, made and loaded");
  const nlohmann::json store = measure_pattern_store(settings.small_repetitions);
  CacheCases cases(settings, buffers, problems);
  std::filesystem::path path = results_path("", results["timestamp"]);
  if (arguments.has("--out")) path = std::filesystem::path(arguments.text("--out")) / path.filename();
  std::filesystem::create_directories(path.parent_path());
  results.update(run_cases(cases, arguments.text("--benchmark_context"), path.string() + ".partial"));
  const std::vector<std::string> errors = find_errors(results);
  results["command"] = command;
  results["errors"] = errors;
  results["memory"] = memory;
  results["pattern_store"] = store;
  results["patterns_of_one_forward"] = cases.patterns_of_one_call();
  const ra::AttentionConfig config = cache_config(1);
  results["settings"] = {{"class", "RingDilatedAttentionV2<float>"},
                         {"segment_lengths", config.segment_lengths},
                         {"dilation_rates", config.dilation_rates},
                         {"sequence_lengths", settings.lengths},
                         {"ring_sizes", settings.ring_sizes},
                         {"heads", settings.heads},
                         {"head_dim", settings.head_dim},
                         {"threads", settings.threads}};

  write_results(path, results);
  std::printf("results: %s\n", path.string().c_str());
  for (const std::string& error : errors) std::fprintf(stderr, "FAILED %s\n", error.c_str());
  return errors.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && argv[1] == memory_case_argument) return run_memory_case(argc, argv);
  return run_program("benchmark_ring_pattern_cache", help_text, argc, argv,
                     {"--out", "--threads", "--repetitions", "--benchmark_filter", "--benchmark_context"},
                     {"--quick"}, [&](const command_line::Arguments& arguments) {
                       return run(parse(arguments), arguments, command_of("./benchmarks/run", argc, argv));
                     });
}
