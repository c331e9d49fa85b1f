// Every rank runs the same tests; a test that fails on one fails the job.
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <ring_attention/ring/mpi_communicator.hpp>

#include "mpi/leaks.hpp"
#include "support/session.hpp"

namespace {

namespace ra = ring_attention;

void pass_message_around(ra::MpiCommunicator& ring) {
  if (ring.size() == 1) return;
  ra::MpiCommunicator::Outgoing out;
  ra::MpiCommunicator::Incoming in;
  ring.expect(in, (ring.rank() + ring.size() - 1) % ring.size(), 0, 64);
  ring.prepare(out, (ring.rank() + 1) % ring.size(), 0, 64);
  std::fill(out.bytes().begin(), out.bytes().end(), std::byte{7});
  ring.send(out);
  ring.wait(in);
  ring.release(in);
  ring.wait(out);
}

}  // namespace

int main(int argc, char** argv) {
  int level = MPI_THREAD_SINGLE;
  {
    const test::IgnoredLeaks of_mpi;
    if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS) return EXIT_FAILURE;
  }
  int failed = test::run_session(argc, argv);
  failed += test::leaks_found();
  int failed_anywhere = 0;
  MPI_Allreduce(&failed, &failed_anywhere, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  // A communicator may outlive MPI, with requests that it kept for the next message.
  auto late = std::make_unique<ra::MpiCommunicator>(MPI_COMM_WORLD, ra::CommunicatorOptions{},
                                                    ra::MpiOptions{.node = MPI_COMM_SELF});
  pass_message_around(*late);
  MPI_Finalize();
  late.reset();
  return failed_anywhere == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
