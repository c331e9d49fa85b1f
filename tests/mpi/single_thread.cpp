// A ring over MPI that was initialised with MPI_THREAD_SINGLE: for one computing thread.

#include <mpi.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <ring_attention/attention/ring_distributed_dilated_attention.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/ring/mpi_communicator.hpp>
#include <stdexcept>
#include <string>

#include "support/compare.hpp"
#include "support/distributed.hpp"
#include "support/oracle_adapter.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

template <class Call>
bool refuses(const Call& call, const std::string& threads) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    const std::string text = error.what();
    const auto names = [&text](const std::string& part) { return text.find(part) != std::string::npos; };
    if (names("MPI_THREAD_SINGLE") && names("attention uses " + threads) && names("MPI_THREAD_FUNNELED") &&
        names("context.threads") && names("set_num_threads")) {
      return true;
    }
    std::fprintf(stderr, "FAIL  the error reads: %s\n", error.what());
    return false;
  }
  std::fprintf(stderr, "FAIL  %s threads are accepted\n", threads.c_str());
  return false;
}

int run() {
  int level = -1;
  MPI_Query_thread(&level);
  if (level != MPI_THREAD_SINGLE) {
    std::printf("skipped: this MPI grants more than MPI_THREAD_SINGLE unasked\n");
    return 0;
  }
  // The threads are a matter of each call, also where one rank alone has another default.
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  ra::set_num_threads(rank == 0 ? 3 : 1);
  ra::MpiCommunicator ring(MPI_COMM_WORLD);

  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {16, 40};
  config.dilation_rates = {1, 2};
  const ra::RingDistributedDilatedAttention<float, ra::MpiCommunicator> attention(config, ring);
  const auto in = test::random_inputs<float>({1, 40, 2, 8}, 2);
  const ra::Tensor<float> expected = ra::RingDilatedAttentionV2<float>(config).forward(in.q, in.k, in.v);
  const auto mine = attention.shard_ranges(40)[static_cast<std::size_t>(ring.rank())];
  const auto shard = [&mine](const ra::Tensor<float>& whole) {
    return test::cut_shard<float>(whole.view(), mine);
  };
  const ra::Tensor<float> q = shard(in.q), k = shard(in.k), v = shard(in.v);
  const ra::Tensor<float> mine_of_expected = shard(expected);
  const auto is_right = [&](const ra::Context& context) {
    const ra::Tensor<float> out = attention.forward(context, q, k, v, 40);
    const auto comparison = test::compare_all("out", test::to_float64(out.view()),
                                              test::to_float64(mine_of_expected.view()), 2e-5);
    if (!comparison.passed()) std::fprintf(stderr, "FAIL  %s\n", comparison.message().c_str());
    return comparison.passed();
  };
  if (!is_right({.threads = 1})) return 1;
  // Ranks that all use more threads hear of it, as does a rank that does not when another one does.
  for (const bool all : {true, false}) {
    ra::set_num_threads(all || ring.rank() == 0 ? 2 : 1);
    if (!refuses([&] { attention.forward(q, k, v, 40); }, "2")) return 1;
    const ra::Context two{.threads = all || ring.rank() == 1 ? 2 : 1};
    if (!refuses([&] { attention.forward(two, q, k, v, 40); }, "2")) return 1;
    if (!is_right({.threads = 1})) return 1;  // the ring is as it was
    ra::set_num_threads(1);
    if (!is_right({})) return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (MPI_Init(&argc, &argv) != MPI_SUCCESS) return 1;
  int result = 1;
  try {
    result = run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "FAIL  %s\n", error.what());
  }
  int anywhere = 0;
  MPI_Allreduce(&result, &anywhere, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return anywhere;
}
