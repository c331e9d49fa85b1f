// In place of the toolkit's header of this name.
#pragma once

#include <Eigen/Core>

using __half = Eigen::half;
