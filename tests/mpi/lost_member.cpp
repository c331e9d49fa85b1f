// A rank that is killed or stopped in the middle of a call: the others throw PeerLost within the timeout. Run
// by lost_member_test.sh, which reads what each rank wrote: mpirun may lose the last lines of a rank.
// usage: lost_member kill|stop RANK CALL STEP MILLISECONDS FOLDER: what happens to which rank, in which call
// before which step of the ring (of forward, then of backward); the timeout; where rank R writes its file R
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ring_attention/mpi.hpp>
#include <string>
#include <thread>

namespace {

namespace ra = ring_attention;
using Clock = std::chrono::steady_clock;

/// Raises a signal before a step.
class FatalRing : public ra::MpiCommunicator {
 public:
  using MpiCommunicator::MpiCommunicator;

  void set_fatal(int step, int signal) {
    step_ = step;
    signal_ = signal;
  }
  void step(int, int) {
    if (step_-- == 0) std::raise(signal_);
  }

 private:
  int step_ = -1, signal_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  int level = MPI_THREAD_SINGLE, rank = 0, size = 1;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  if (argc != 7) return 2;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const int signal = std::strcmp(argv[1], "kill") == 0 ? SIGKILL : SIGSTOP;
  const int victim = std::atoi(argv[2]), fatal_call = std::atoi(argv[3]), fatal_step = std::atoi(argv[4]);
  const std::chrono::milliseconds timeout(std::atoi(argv[5]));
  ra::set_num_threads(1);
  ra::AttentionConfig config;
  const std::int64_t tokens = 256;  // of a rank
  config.segment_lengths = {tokens * size};
  config.dilation_rates = {1};
  ra::Tensor<float> x(1, tokens, 2, 32);
  for (std::int64_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(i % 17) / 17;
  char told[1024] = "";
  Clock::time_point last_call;
  const auto seconds = [&last_call] {
    return std::chrono::duration<double>(Clock::now() - last_call).count();
  };
  try {
    FatalRing ring(MPI_COMM_WORLD, {.timeout = timeout});
    const ra::RingDistributedDilatedAttention<float, FatalRing> attention(config, ring);
    for (int call = 0;; ++call) {
      if (rank == victim && call == fatal_call) ring.set_fatal(fatal_step, signal);
      last_call = Clock::now();
      const auto result = attention.forward_with_lse(x, x, x, tokens * size);
      (void)attention.backward(x, x, x, result, x, tokens * size);
    }
  } catch (const ra::PeerLost& error) {
    std::snprintf(told, sizeof told, "PeerLost after %.2f s: %s\n", seconds(), error.what());
  } catch (const std::exception& error) {
    std::snprintf(told, sizeof told, "%s\n", error.what());
  }
  const std::string path = std::string(argv[6]) + "/" + std::to_string(rank);
  if (std::FILE* file = std::fopen((path + ".part").c_str(), "w")) {
    std::fputs(told, file);
    std::fclose(file);
    std::rename((path + ".part").c_str(), path.c_str());
  }
  // Until the script has read what all of them wrote and kills them. Open MPI 5's mpirun ends when the second
  // rank has failed: a stopped rank, alone then, is continued by the kernel and tells of the others, and a
  // slow one is too late.
  std::this_thread::sleep_for(std::chrono::minutes(1));
  // What is left of the job cannot go on: MPI itself would wait for the lost rank.
  std::_Exit(EXIT_FAILURE);
}
