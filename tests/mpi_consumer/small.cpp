// Little to compile: every rank tells all others its number.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <ring_attention/ring/mpi_communicator.hpp>

int main(int argc, char** argv) {
  int level = MPI_THREAD_SINGLE;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  bool passed = false;
  {
    ring_attention::MpiCommunicator ring(MPI_COMM_WORLD);
    const std::array<std::byte, 1> own{static_cast<std::byte>(ring.rank())};
    const auto all = ring.all_gather(own);
    passed = static_cast<int>(all.size()) == ring.size();
  }
  MPI_Finalize();
  std::puts(passed ? "passed" : "failed");
  return passed ? EXIT_SUCCESS : EXIT_FAILURE;
}
