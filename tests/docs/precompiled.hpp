// Read once for all programs and fragments of the pages; the engine was compiled with the tests.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../support/engine_instantiations.hpp"
