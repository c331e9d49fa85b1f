// What a project over MPI writes: every rank attends with its shard.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ring_attention/mpi.hpp>

namespace ra = ring_attention;

int main(int argc, char** argv) {
  int level = MPI_THREAD_SINGLE;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  bool passed = false;
  {
    ra::MpiCommunicator ring(MPI_COMM_WORLD);
    const std::int64_t own = 32, total = own * ring.size();
    ra::AttentionConfig config = ra::ring_preset();
    config.segment_lengths = {total};
    config.dilation_rates = {1};
    const ra::RingDistributedDilatedAttention<float, ra::MpiCommunicator> attention(config, ring);
    ra::Tensor<float> q(1, own, 2, 8), v(1, own, 2, 8);
    // Equal scores: every row is the mean of all values.
    for (std::int64_t i = 0; i < v.size(); ++i) v.data()[i] = static_cast<float>(ring.rank());
    const ra::Tensor<float> out = attention.forward(q, q, v, total);
    const float mean = static_cast<float>(ring.size() - 1) / 2;
    passed = true;
    for (std::int64_t i = 0; i < out.size(); ++i) passed = passed && std::abs(out.data()[i] - mean) < 1e-5f;
  }
  MPI_Finalize();
  std::puts(passed ? "passed" : "failed");
  return passed ? EXIT_SUCCESS : EXIT_FAILURE;
}
