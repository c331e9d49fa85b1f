// mpi_ring: dilated attention over the ranks of an MPI job, with a line per ring step. `mpi_ring --help`
// lists the options.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <ring_attention/mpi.hpp>
#include <stdexcept>
#include <string>

#include "support/mpi_ring_options.hpp"
#include "support/ring_shard.hpp"

namespace {

namespace ra = ring_attention;
using examples::MpiRingOptions;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The ranks' ring, which says on rank 0 where a call stands.
class ReportingRing : public ra::MpiCommunicator {
 public:
  using ra::MpiCommunicator::MpiCommunicator;

  /// The engine calls it at the start of each step of a forward pass.
  void step(int step, int steps) const {
    if (rank() != 0) return;
    if (step == 0) {
      std::printf("[%7.2f s] step 1 of %d: own keys and values\n", seconds_since(start_), steps);
    } else {
      std::printf("[%7.2f s] step %d of %d: keys and values of rank %d\n", seconds_since(start_), step + 1,
                  steps, (steps - step) % steps);
    }
    std::fflush(stdout);
  }

 private:
  Clock::time_point start_ = Clock::now();
};

void require_success(int code, const char* call) {
  if (code != MPI_SUCCESS) throw std::runtime_error(std::string(call) + " failed");
}

template <class Number>
Number over_ranks(Number value, MPI_Datatype type, MPI_Op operation) {
  Number result{};
  require_success(MPI_Allreduce(&value, &result, 1, type, operation, MPI_COMM_WORLD), "MPI_Allreduce");
  return result;
}

int ranks_of_node() {
  MPI_Comm node = MPI_COMM_NULL;
  require_success(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
                  "MPI_Comm_split_type");
  int ranks = 1;
  require_success(MPI_Comm_size(node, &ranks), "MPI_Comm_size");
  require_success(MPI_Comm_free(&node), "MPI_Comm_free");
  return ranks;
}

void describe(const MpiRingOptions& options, int ranks) {
  std::printf("%lld tokens, %lld heads of %lld, float, %s%s; %d %s, %d %s each\n",
              static_cast<long long>(options.tokens), static_cast<long long>(options.heads),
              static_cast<long long>(options.head_dim), options.config.causal ? "causal, " : "",
              options.config.shard_layout == ra::ShardLayout::zigzag ? "zigzag" : "contiguous", ranks,
              ranks == 1 ? "rank" : "ranks", ra::num_threads(),
              ra::num_threads() == 1 ? "thread" : "threads");
  for (std::size_t i = 0; i < options.config.segment_lengths.size(); ++i) {
    std::printf("  branch %zu: segments of %lld tokens, rate %lld\n", i + 1,
                static_cast<long long>(std::min(options.config.segment_lengths[i], options.tokens)),
                static_cast<long long>(options.config.dilation_rates[i]));
  }
  std::fflush(stdout);
}

/// True where every checked row of every rank is right.
bool run(const MpiRingOptions& options) {
  const int node_ranks = ranks_of_node();
  // Until it is set, the number of threads is that of the cores that this process may use.
  ra::set_num_threads(options.threads > 0 ? options.threads : std::max(1, ra::num_threads() / node_ranks));
  ReportingRing ring(MPI_COMM_WORLD);
  if (ring.rank() == 0) describe(options, ring.size());
  const ra::RingDistributedDilatedAttention<float, ReportingRing> attention(options.config, ring);
  const examples::TokenRanges ranges =
      attention.shard_ranges(options.tokens)[static_cast<std::size_t>(ring.rank())];
  const ra::Tensor<float> q =
      examples::make_shard(examples::Operand::query, ranges, options.heads, options.head_dim);
  const ra::Tensor<float> k =
      examples::make_shard(examples::Operand::key, ranges, options.heads, options.head_dim);
  const ra::Tensor<float> v =
      examples::make_shard(examples::Operand::value, ranges, options.heads, options.head_dim);

  require_success(MPI_Barrier(MPI_COMM_WORLD), "MPI_Barrier");
  const auto start = Clock::now();
  const ra::Tensor<float> out = attention.forward(q, k, v, options.tokens);
  const double seconds = over_ranks(seconds_since(start), MPI_DOUBLE, MPI_MAX);

  const double sent = over_ranks(static_cast<double>(attention.bytes_sent()), MPI_DOUBLE, MPI_MAX);
  // A dense ring passes every row of keys and values to every other rank.
  const double dense = over_ranks(static_cast<double>(ring.size() - 1) * 2.0 * static_cast<double>(k.size()) *
                                      static_cast<double>(sizeof(float)),
                                  MPI_DOUBLE, MPI_MAX);
  const std::int64_t owned = over_ranks(out.shape()[1], MPI_INT64_T, MPI_SUM);
  if (owned != options.tokens) {
    throw std::logic_error("the ranks own " + std::to_string(owned) + " tokens in all");
  }
  const examples::DirectRow direct(options.config, options.tokens, options.heads, options.head_dim);
  const examples::RowCheck own = examples::check_rows(out, ranges, direct, options.samples);
  const examples::RowCheck all{over_ranks(own.rows, MPI_INT64_T, MPI_SUM),
                               over_ranks(own.worst, MPI_DOUBLE, MPI_MAX)};
  const bool right = all.worst <= 1.0;
  if (ring.rank() == 0) {
    std::printf("forward: %.3f s, %.0f tokens/s\n", seconds, static_cast<double>(options.tokens) / seconds);
    std::printf("sent by a rank: at most %.3f MB", sent * 1e-6);
    if (dense > 0.0)
      std::printf(", %.3f %% of the %.3f MB of a dense ring", 100.0 * sent / dense, dense * 1e-6);
    std::printf("\n%lld rows checked, largest error %.3g of the tolerance: %s\n",
                static_cast<long long>(all.rows), all.worst, right ? "right" : "WRONG");
  }
  return right;
}

/// What a rank is told; the ranks of a job read the same arguments.
int run(int argc, char** argv, bool prints) {
  try {
    const MpiRingOptions options = examples::parse_mpi_ring_options(argc, argv);
    if (!options.help) return run(options) ? EXIT_SUCCESS : EXIT_FAILURE;
    if (prints) std::fputs(examples::mpi_ring_help, stdout);
    return EXIT_SUCCESS;
  } catch (const command_line::Error& error) {
    if (prints) std::fprintf(stderr, "mpi_ring: %s\n", error.what());
  } catch (const std::invalid_argument& error) {  // thrown by every rank alike
    if (prints) std::fprintf(stderr, "mpi_ring: %s\n", error.what());
  }
  return EXIT_FAILURE;
}

}  // namespace

int main(int argc, char** argv) {
  int level = MPI_THREAD_SINGLE, rank = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  try {
    const int status = run(argc, argv, rank == 0);
    MPI_Finalize();
    return status;
  } catch (const std::exception& error) {
    // The other ranks may be anywhere: the job cannot be ended in order.
    std::fprintf(stderr, "mpi_ring: rank %d: %s\n", rank, error.what());
    MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
    return EXIT_FAILURE;
  }
}
