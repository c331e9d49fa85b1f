#include "benchmarks/support/skipped_run.hpp"

#include <optional>
#include <string>

#include "support/catch.hpp"

namespace {

// As Google Benchmark 1.7 declares them, and as 1.9 does.
struct RunOf17 {
  bool error_occurred;
  std::string error_message;
};
enum SkippedOf19 { NotSkipped = 0, SkippedWithMessage, SkippedWithError };
struct RunOf19 {
  SkippedOf19 skipped;
  std::string skip_message;
};

TEST_CASE("a skipped case of a benchmark gives its reason with either version's names", "[benchmarks]") {
  CHECK(benchmarks::reason_skipped(RunOf17{false, ""}) == std::nullopt);
  CHECK(benchmarks::reason_skipped(RunOf17{true, "wrong"}) == "wrong");
  CHECK(benchmarks::reason_skipped(RunOf19{NotSkipped, ""}) == std::nullopt);
  CHECK(benchmarks::reason_skipped(RunOf19{SkippedWithMessage, "no need"}) == "no need");
  CHECK(benchmarks::reason_skipped(RunOf19{SkippedWithError, "wrong"}) == "wrong");
}

}  // namespace
