// Of Catch2 2 the whole implementation, so that no other unit has to compile it.
#include "support/session.hpp"

#define CATCH_CONFIG_RUNNER
#include "support/catch.hpp"
#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#endif

int test::run_session(int argc, char** argv) { return Catch::Session().run(argc, argv); }
