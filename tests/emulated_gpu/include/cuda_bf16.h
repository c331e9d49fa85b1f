// In place of the toolkit's header of this name.
#pragma once

#include <Eigen/Core>

using __nv_bfloat16 = Eigen::bfloat16;
