// Catch2 2 defines main() here; Catch2 3 brings it in a library.
#define CATCH_CONFIG_MAIN
#include "support/catch.hpp"
