// What the pattern cache gains and what it does not: RingDilatedAttentionV2 in full and the other attention
// classes at one size, with the global cache, local caches and none, cold and warm. `--help` lists the
// options; the results file holds Google Benchmark's fields and a summary.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/collecting_reporter.hpp"
#include "support/comparison.hpp"
#include "support/lookup_ratio.hpp"
#include "support/machine.hpp"
#include "support/memory_cases.hpp"
#include "support/results_file.hpp"
#include "support/settings.hpp"
#include "support/store_timing.hpp"
#include "support/timed_cases.hpp"
#include "support/verification.hpp"

namespace {

using namespace benchmarks;

/// Google Benchmark reads its settings from a command line, and keeps a pointer to the program's name: no
/// path, since it goes into the results.
void initialize_google_benchmark(const Settings& settings) {
  static std::vector<std::string> words{"benchmark_ring_pattern_cache",
                                        "--benchmark_enable_random_interleaving=true"};
  words.insert(words.end(), settings.for_benchmark.begin(), settings.for_benchmark.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  auto count = static_cast<int>(arguments.size());
  arguments.push_back(nullptr);
  benchmark::Initialize(&count, arguments.data());
}

void announce(const std::string& what) { std::fprintf(stderr, "== %s\n", what.c_str()); }

void choose_repetitions(Settings& settings, const Verification& verified) {
  constexpr int policies = 3, cache_states = 2;
  double all = 0.0;
  for (const auto& [unused, call] : verified) all += call.seconds;
  const double layer = verified.at({settings.lengths.front(), settings.ring_sizes.front()}).seconds;
  settings.choose_repetitions(all * policies * cache_states, layer * settings.model_layers * policies);
}

int run(Settings settings) {
  initialize_google_benchmark(settings);
  Buffers buffers(settings.workload, settings.lengths.back());
  Fixture fixture{
      settings, buffers, {}, {}, keys_of_forward(settings.lengths.front(), settings.workload.heads)};

  announce("the policies give equal bits");
  fixture.verified = verify_policies(settings, buffers);
  announce("every class gives equal bits under every policy, and what V2 gives");
  fixture.class_digests = verify_classes(settings, buffers);
  choose_repetitions(settings, fixture.verified);
  announce("peak memory, one process per case");
  const nlohmann::json memory = measure_memory(settings);
  announce("warm lookups, global against local");
  const LookupRatio lookups = measure_lookup_ratio(settings, fixture.keys);
  std::fprintf(stderr, "  global %s, local %s, ratio %.3f\n", format_seconds(lookups.global.median).c_str(),
               format_seconds(lookups.local.median).c_str(), lookups.ratio.median);

  announce("a large pattern, made and loaded");
  const nlohmann::json store = measure_pattern_store(settings.small_repetitions);

  const std::vector<std::string> groups = register_cases(fixture);
  CollectingReporter reporter;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    announce("case group " + std::to_string(i + 1) + " of " + std::to_string(groups.size()) + ": " +
             groups[i]);
    benchmark::RunSpecifiedBenchmarks(&reporter, "^" + groups[i]);
  }

  const std::vector<PolicyComparison> comparisons = compare_policies(reporter, groups);
  const nlohmann::json memory_reduction = compare_memory(memory);
  nlohmann::json speedups = nlohmann::json::array();
  for (const PolicyComparison& comparison : comparisons) speedups.push_back(comparison.to_json());
  nlohmann::json results = reporter.json();
  results["context"]["host_name"] = "withheld";
  const std::string timestamp = utc_timestamp();
  results["ring_attention"] = {{"timestamp", timestamp},
                               {"version", std::to_string(RING_ATTENTION_VERSION_MAJOR) + "." +
                                               std::to_string(RING_ATTENTION_VERSION_MINOR) + "." +
                                               std::to_string(RING_ATTENTION_VERSION_PATCH)},
                               {"commit", describe_commit()},
                               {"machine", describe_machine()},
                               {"build", describe_build()},
                               {"settings", settings.to_json()},
                               {"verification",
                                {{"policies_bitwise_equal", true},
                                 {"every_timed_forward_compared", true},
                                 {"errors", reporter.errors()}}},
                               {"pattern_lookup_ratio", lookups.to_json()},
                               {"patterns_of_one_forward", fixture.keys.size()},
                               {"pattern_store", store},
                               {"policies", speedups},
                               {"cold_and_warm", compare_cold_and_warm(reporter)},
                               {"memory", memory},
                               {"memory_reduction", memory_reduction}};

  const std::string file_name = "benchmark_ring_pattern_cache_results-" + timestamp + ".json";
  print_table(comparisons, memory_reduction);
  std::printf("\nwarm lookup, global / local: %.3f (limit %.1f)\n", lookups.ratio.median, lookup_ratio_limit);
  write_atomically(settings.out / file_name, results.dump(2) + "\n");
  std::printf("results: %s\n", (settings.out / file_name).string().c_str());

  for (const std::string& error : reporter.errors()) std::fprintf(stderr, "FAILED %s\n", error.c_str());
  if (!lookups.within_limit()) std::fprintf(stderr, "FAILED warm lookup ratio above the limit\n");
  return reporter.errors().empty() && lookups.within_limit() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc > 1 && argv[1] == memory_case_argument) return run_memory_case(argc, argv);
    const Settings settings = parse_settings(argc, argv);
    if (settings.help) {
      std::fputs(help_text, stdout);
      return 0;
    }
    return run(settings);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "benchmark_ring_pattern_cache: %s\n", error.what());
    return 1;
  }
}
