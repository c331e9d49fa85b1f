// Every rank runs the same tests; a test that fails on one fails the job.
#define CATCH_CONFIG_RUNNER
#include <cstdlib>
#include <ring_attention/ring/mpi_calls.hpp>

#include "mpi/leaks.hpp"
#include "support/catch.hpp"
#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#endif

int main(int argc, char** argv) {
  int level = MPI_THREAD_SINGLE;
  {
    const test::IgnoredLeaks of_mpi;
    if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS) return EXIT_FAILURE;
  }
  int failed = Catch::Session().run(argc, argv);
  failed += test::leaks_found();
  int failed_anywhere = 0;
  MPI_Allreduce(&failed, &failed_anywhere, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return failed_anywhere == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
