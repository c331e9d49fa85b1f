// Rings over MPI: CMake target ring_attention::mpi.
#pragma once

#include <ring_attention/requirements.hpp>
// First, because an older compiler may lack headers that others include.
#include <ring_attention/ring/mpi_communicator.hpp>
#include <ring_attention/ring_attention.hpp>
