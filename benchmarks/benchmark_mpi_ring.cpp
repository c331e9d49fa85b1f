// The ring over MPI: strong and weak scaling, how much of the exchange is hidden, and bytes. `--help` lists
// cases and options; mpirun starts it.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <ring_attention/mpi.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/mpi_group.hpp"
#include "support/pattern_sharing.hpp"
#include "support/results.hpp"
#include "support/ring_scaling.hpp"

namespace {

using namespace benchmarks;

constexpr const char* help_text =
    R"(benchmark_mpi_ring: the ring over MPI: scaling, how much of the exchange is hidden, and bytes

usage: mpirun -n RANKS benchmark_mpi_ring [--quick] [--filter TEXT[,TEXT...]] [--rounds N] [--threads N] [--json FILE]

On the first 1, 2, 4 ... ranks of the job, and on all, one forward pass in float, heads of 64:
  strong/longnet-49152x4   segments of 2,048 to 32,768 tokens at rates 1 to 16, longnet_preset; one of
                           32,768 spans two shards
  strong/dense-8192x4      every query meets every key, so that every row travels to every rank
  weak/longnet             24,576 tokens per rank
and, on all ranks, patterns-per-node: time of the first lookups and memory of the nodes, where the ranks of a node share
patterns and where every rank computes them.
In each round it times, in turn, the call; its computing alone (over a ring in which nothing moves); and its messages
alone (as many bytes, moved in the same order between buffers).

  --quick          one head in place of 4, dense-4096, 5 rounds
  --filter TEXT    only cases whose name contains TEXT; of several texts, separated by commas, every one. Names are as
                   strong/longnet-49152x4/ranks2
  --rounds N       default 9
  --threads N      threads of a rank (default 1)
  --no-shared-memory
                   messages between ranks of a machine go through MPI, too
  --json FILE      where the results go (default: benchmark_mpi_ring_results-<UTC time>.json beside this program)
  --help

Figures are medians over the rounds, of the slowest rank. The peak rate of multiply-adds is measured on all ranks at once
before and after each round; rounds whose two peaks differ by more than 7 % are dropped, and "noisy" marks cases that
have fewer than asked for.

Every case is first checked against a float64 evaluation: all rows at 1/32 of its size, and some at full size; and every
rank must send what the plan says, and no more than promised. Exit status 0 only if every check held.
)";

struct Settings {
  bool quick = false, shared_memory = true;
  int rounds = 9, threads = 1;
  NameFilter selects;
};

/// Throws command_line::Error.
Settings parse(const command_line::Arguments& arguments) {
  const bool quick = arguments.has("--quick");
  return {quick, !arguments.has("--no-shared-memory"),
          arguments.positive<int>("--rounds").value_or(quick ? 5 : 9),
          arguments.positive<int>("--threads").value_or(1), NameFilter(arguments.text("--filter"))};
}

/// Every case for a job of `world` ranks that the filters let through.
std::vector<RingCase> make_cases(const Settings& settings, int world) {
  const std::int64_t heads = settings.quick ? 1 : 4;
  std::vector<RingCase> cases;
  const auto add_series = [&](const std::string& series, const auto& problem_of) {
    for (int ranks = 1;; ranks = std::min(2 * ranks, world)) {
      const Configuration problem = problem_of(ranks);
      const std::string name = series + "/" + problem.name + "/ranks" + std::to_string(ranks);
      if (settings.selects(name)) cases.push_back({name, series, ranks, problem});
      if (ranks == world) return;
    }
  };
  add_series("strong", [&](int) { return longnet(49152, heads, {64}); });
  add_series("strong", [&](int) { return dense(settings.quick ? 4096 : 8192, heads, {64}); });
  add_series("weak", [&](int ranks) { return longnet(24576 * ranks, heads, {64}); });
  return cases;
}

/// The line of a case, with an error if a check failed. Throws if the ranks are no longer where they should
/// be.
nlohmann::json measure(const RingCase& what, const MpiGroup& group, const Settings& settings,
                       const nlohmann::json& measured) {
  try {
    nlohmann::json line = measure_ring_case(what, group, settings.rounds, settings.shared_memory);
    compare_with_one_rank(line, what.ranks == 1 ? nlohmann::json::array() : measured, what);
    return line;
  } catch (const ra::PeerLost&) {
    throw;
  } catch (const ra::MemberFailed&) {
    throw;
  } catch (const ra::MpiError&) {
    throw;
  } catch (const std::runtime_error& error) {
    return {{"name", what.name}, {"error", error.what()}};
  }
}

int run(const Settings& settings, int rank, int world, const std::string& json, const std::string& command) {
  const std::vector<RingCase> cases = make_cases(settings, world);
  const bool patterns = settings.selects("patterns-per-node"), prints = rank == 0;
  if (cases.empty() && !patterns) throw command_line::Error("no case matches --filter");
  nlohmann::json results = describe_run();
  const std::filesystem::path path = results_path(json, results["timestamp"]);
  char library[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  check_mpi(MPI_Get_library_version(library, &length), "MPI_Get_library_version");
  const std::string version(library);
  results["mpi"] = {{"library", version.substr(0, version.find_first_of(",\n"))}, {"ranks", world}};
  results["command"] = command;
  results["settings"] = {{"rounds", settings.rounds},
                         {"threads_per_rank", settings.threads},
                         {"shared_memory", settings.shared_memory},
                         {"scalar", "float"},
                         {"class", "RingDistributedDilatedAttention"}};
  results["results"] = nlohmann::json::array();
  ra::set_num_threads(settings.threads);
  int failures = 0;
  for (const RingCase& what : cases) {
    const MpiGroup group(what.ranks);
    if (group.member()) {
      const nlohmann::json line = measure(what, group, settings, results["results"]);
      results["results"].push_back(line);
      failures += line.contains("error") ? 1 : 0;
      if (prints && line.contains("error")) std::fprintf(stderr, "FAILED %s\n", line.dump().c_str());
      if (prints && !line.contains("error")) print_ring_case(line);
      if (prints) write_results(path, results);  // a run takes long: what is there is kept
    }
    quiet_barrier(MPI_COMM_WORLD, std::chrono::milliseconds(2));
  }
  if (patterns) results["patterns_per_node"] = measure_pattern_sharing(MpiGroup(world), settings.rounds);
  if (prints) {
    write_results(path, results);
    std::printf("\nresults: %s\n", path.string().c_str());
  }
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace

int main(int argc, char** argv) {
  int level = MPI_THREAD_SINGLE, rank = 0, world = 1, status = EXIT_FAILURE;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &world);
  try {
    const command_line::Arguments arguments(argc, argv, {"--filter", "--rounds", "--threads", "--json"},
                                            {"--quick", "--no-shared-memory", "--help", "-h"});
    if (arguments.has("--help") || arguments.has("-h")) {
      if (rank == 0) std::fputs(help_text, stdout);
      status = EXIT_SUCCESS;
    } else {
      const std::string command = "mpirun -n " + std::to_string(world) + " benchmark_mpi_ring";
      status = run(parse(arguments), rank, world, arguments.text("--json"), command_of(command, argc, argv));
    }
  } catch (const command_line::Error& error) {  // on every rank alike
    if (rank == 0) std::fprintf(stderr, "benchmark_mpi_ring: %s\n", error.what());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "benchmark_mpi_ring: rank %d: %s\n", rank, error.what());
    MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
  }
  MPI_Finalize();
  return status;
}
