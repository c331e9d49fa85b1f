#include "support/engine_instantiations.hpp"

RING_ATTENTION_INSTANTIATE_ENGINE(, Eigen::half)
