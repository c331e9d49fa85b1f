// What Google Benchmark says of a case that did not run, in the words of its versions.
#pragma once

#include <optional>
#include <string>

namespace benchmarks {

/// Why a run was skipped, or nothing. Up to 1.7 a Run has `error_occurred`; since 1.8 it has `skipped`, an
/// enumeration whose zero means that it was not.
template <class Run>
std::optional<std::string> reason_skipped(const Run& run) {
  if constexpr (requires { run.error_occurred; }) {
    if (run.error_occurred) return run.error_message;
  } else {
    if (run.skipped != decltype(run.skipped){}) return run.skip_message;
  }
  return std::nullopt;
}

}  // namespace benchmarks
