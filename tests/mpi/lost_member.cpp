// A rank that is killed or stopped in the middle of a call: the others throw PeerLost within the timeout. Run
// by lost_member_test.sh, which counts their lines. usage: lost_member kill|stop RANK CALL MILLISECONDS: what
// happens to which rank, before which call, and the timeout
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ring_attention/mpi.hpp>

namespace ra = ring_attention;

int main(int argc, char** argv) {
  int level = MPI_THREAD_SINGLE, rank = 0, size = 1;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  if (argc != 5) return 2;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const int signal = std::strcmp(argv[1], "kill") == 0 ? SIGKILL : SIGSTOP;
  const int victim = std::atoi(argv[2]), fatal_call = std::atoi(argv[3]);
  const std::chrono::milliseconds timeout(std::atoi(argv[4]));
  ra::set_num_threads(1);
  ra::AttentionConfig config;
  const std::int64_t tokens = 256;  // of a rank
  config.segment_lengths = {tokens * size};
  config.dilation_rates = {1};
  ra::Tensor<float> x(1, tokens, 2, 32);
  for (std::int64_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(i % 17) / 17;
  try {
    ra::MpiCommunicator ring(MPI_COMM_WORLD, {.timeout = timeout});
    const ra::RingDistributedDilatedAttention<float, ra::MpiCommunicator> attention(config, ring);
    for (int call = 0;; ++call) {
      if (rank == victim && call == fatal_call) std::raise(signal);
      (void)attention.forward(x, x, x, tokens * size);
    }
  } catch (const ra::PeerLost& error) {
    std::printf("rank %d: PeerLost: %s\n", rank, error.what());
  } catch (const std::exception& error) {
    std::printf("rank %d: %s\n", rank, error.what());
  }
  std::fflush(stdout);
  // What is left of the job cannot go on: MPI itself would wait for the lost rank.
  std::_Exit(EXIT_FAILURE);
}
