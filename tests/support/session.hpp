#pragma once

namespace test {

/// Runs the program's tests as its arguments ask; returns its exit status.
int run_session(int argc, char** argv);

}  // namespace test
