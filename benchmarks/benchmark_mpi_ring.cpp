// The ring over MPI: strong and weak scaling, how much of the exchange is hidden, and bytes. `--help` lists
// cases and options; mpirun starts it.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <ring_attention/mpi.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/machine.hpp"
#include "support/mpi_group.hpp"
#include "support/pattern_sharing.hpp"
#include "support/results_file.hpp"
#include "support/ring_scaling.hpp"
#include "support/ring_settings.hpp"

namespace {

using namespace benchmarks;

struct World {
  int rank = 0;
  int size = 1;
  bool prints() const { return rank == 0; }
};

nlohmann::json describe_run(const RingSettings& settings, const World& world, const std::string& timestamp) {
  return {{"timestamp", timestamp},
          {"commit", describe_commit()},
          {"machine", describe_machine()},
          {"build", describe_build()},
          {"settings",
           {{"quick", settings.quick},
            {"filters", settings.filters},
            {"rounds", settings.rounds},
            {"threads_per_rank", settings.threads},
            {"layout", settings.layout == ra::ShardLayout::zigzag ? "zigzag" : "contiguous"},
            {"causal", settings.causal},
            {"shared_memory", settings.shared_memory},
            {"scalar", "float"},
            {"class", "RingDistributedDilatedAttention"},
            {"seconds", "of the slowest rank, by round"},
            {"flops", "4 * d * pairs"},
            {"order", "call, computing alone and messages alone alternate within a round"},
            {"clock", "steady"}}},
          {"mpi", {{"library", mpi_library_version()}, {"ranks", world.size}}},
          {"kernels", ra::available_kernels()}};
}

/// Measures every case on the ranks that it asks for; `failures` counts those that failed a check. `keep` is
/// called on rank 0 with what there is so far.
nlohmann::json measure_scaling(const std::vector<RingCase>& cases, const RingSettings& settings,
                               const World& world, int& failures,
                               const std::function<void(const nlohmann::json&)>& keep) {
  nlohmann::json results = nlohmann::json::array();
  if (world.prints() && !cases.empty()) print_ring_header();
  for (const RingCase& what : cases) {
    const MpiGroup group(what.ranks);
    if (group.member()) {
      nlohmann::json line;
      try {
        line = measure_ring_case(what, group, settings);
        compare_with_one_rank(line, results);
        compare_with_model(line, results, what.problem);
        if (world.prints()) print_ring_case(line);
      } catch (const std::runtime_error& error) {
        if (dynamic_cast<const ra::PeerLost*>(&error) != nullptr ||
            dynamic_cast<const ra::MemberFailed*>(&error) != nullptr ||
            dynamic_cast<const ra::MpiError*>(&error) != nullptr) {
          throw;  // the ranks are no longer where they should be
        }
        line = {{"name", what.name}, {"error", error.what()}};
        if (world.prints()) std::fprintf(stderr, "FAILED %s: %s\n", what.name.c_str(), error.what());
        ++failures;
      }
      results.push_back(std::move(line));
      if (world.prints()) keep(results);
    }
    quiet_barrier(MPI_COMM_WORLD, std::chrono::milliseconds(2));
  }
  return results;
}

int run(const RingSettings& settings, const World& world) {
  const std::vector<RingCase> cases = settings.cases(world.size);
  const bool patterns = settings.selects(PatternSharing::name);
  if (settings.list) {
    if (world.prints()) {
      for (const RingCase& what : cases) std::printf("%s\n", what.name.c_str());
      if (patterns) std::printf("%s\n", PatternSharing::name);
    }
    return EXIT_SUCCESS;
  }
  if (cases.empty() && !patterns) throw command_line::Error("no case matches --filter (see --list)");
  ra::set_num_threads(settings.threads);
  const std::string timestamp = utc_timestamp();
  const std::filesystem::path json = !settings.json.empty()
                                         ? settings.json
                                         : std::filesystem::read_symlink("/proc/self/exe").parent_path() /
                                               ("benchmark_mpi_ring_results-" + timestamp + ".json");
  nlohmann::json results;
  if (world.prints()) results = describe_run(settings, world, timestamp);
  int failures = 0;
  measure_scaling(cases, settings, world, failures, [&](const nlohmann::json& scaling) {
    results["results"] = scaling;
    write_atomically(json, results.dump(2) + "\n");  // a run takes long: what is there is kept
  });
  if (patterns) {
    const nlohmann::json sharing = measure_pattern_sharing(MpiGroup(world.size), settings.rounds);
    if (world.prints()) {
      results["patterns_per_node"] = sharing;
      write_atomically(json, results.dump(2) + "\n");
    }
  }
  if (world.prints()) std::printf("\nresults: %s\n", json.string().c_str());
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace

int main(int argc, char** argv) {
  int level = MPI_THREAD_SINGLE;
  World world;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  MPI_Comm_rank(MPI_COMM_WORLD, &world.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &world.size);
  int status = EXIT_FAILURE;
  try {
    const RingSettings settings = parse_ring_settings(argc, argv);
    if (settings.help) {
      if (world.prints()) std::fputs(ring_help_text, stdout);
      status = EXIT_SUCCESS;
    } else {
      status = run(settings, world);
    }
  } catch (const command_line::Error& error) {  // on every rank alike
    if (world.prints()) std::fprintf(stderr, "benchmark_mpi_ring: %s\n", error.what());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "benchmark_mpi_ring: rank %d: %s\n", world.rank, error.what());
    MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
  }
  MPI_Finalize();
  return status;
}
