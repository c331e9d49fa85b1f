// Calls without end, until a rank is lost: hosts.sh cuts the link of one host meanwhile, and counts the
// lines. usage: lost_host FOLDER MILLISECONDS: each rank tells what happens in FOLDER/rank.N, which does not
// need the network; and the timeout
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <ring_attention/mpi.hpp>
#include <string>

namespace ra = ring_attention;

int main(int argc, char** argv) {
  int level = MPI_THREAD_SINGLE, rank = 0, size = 1;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  if (argc != 3) return 2;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  std::FILE* file = std::fopen((std::string(argv[1]) + "/rank." + std::to_string(rank)).c_str(), "w");
  if (file == nullptr) return 2;
  ra::set_num_threads(1);
  ra::AttentionConfig config;
  const std::int64_t tokens = 256;  // of a rank
  config.segment_lengths = {tokens * size};
  config.dilation_rates = {1};
  ra::Tensor<float> x(1, tokens, 2, 32);
  for (std::int64_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(i % 17) / 17;
  try {
    ra::MpiCommunicator ring(MPI_COMM_WORLD, {.timeout = std::chrono::milliseconds(std::atoi(argv[2]))});
    const ra::RingDistributedDilatedAttention<float, ra::MpiCommunicator> attention(config, ring);
    for (int call = 0;; ++call) {
      (void)attention.forward(x, x, x, tokens * size);
      if (call == 2) {
        std::fputs("began\n", file);
        std::fflush(file);
      }
    }
  } catch (const ra::PeerLost& error) {
    std::fprintf(file, "PeerLost: %s\n", error.what());
  } catch (const std::exception& error) {
    std::fprintf(file, "%s\n", error.what());
  }
  std::fclose(file);
  // What is left of the job cannot go on: MPI itself would wait for the lost rank.
  std::_Exit(EXIT_FAILURE);
}
