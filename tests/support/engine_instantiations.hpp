// The engine is compiled once per scalar, in tests/engine/, and not in every test that calls it.
#pragma once

#include <ring_attention/ring_attention.hpp>

#include "../../.cmake/compiled/instantiations.hpp"

RING_ATTENTION_INSTANTIATE_ENGINE(extern, float)
RING_ATTENTION_INSTANTIATE_ENGINE(extern, double)
RING_ATTENTION_INSTANTIATE_ENGINE(extern, Eigen::half)
RING_ATTENTION_INSTANTIATE_ENGINE(extern, Eigen::bfloat16)
