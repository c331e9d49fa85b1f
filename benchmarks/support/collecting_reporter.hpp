// Keeps what Google Benchmark reports: its own JSON, unchanged, and seconds per case for summaries.
#pragma once

#include <benchmark/benchmark.h>

#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "format.hpp"
#include "progress.hpp"
#include "skipped_run.hpp"
#include "statistics.hpp"

namespace benchmarks {

/// Takes several runs of Google Benchmark as one, and prints a line per case to standard error.
class CollectingReporter : public benchmark::BenchmarkReporter {
 public:
  CollectingReporter() {
    json_.SetOutputStream(&text_);
    json_.SetErrorStream(&text_);
  }

  bool ReportContext(const Context& context) override {
    if (!std::exchange(started_, true)) json_.ReportContext(context);
    return true;
  }

  void ReportRuns(const std::vector<Run>& runs) override {
    json_.ReportRuns(runs);
    end_open_line();
    std::set<std::string> reported;
    for (const Run& run : runs) {
      const std::string& name = run.run_name.function_name;
      if (const auto reason = reason_skipped(run)) {
        errors_.push_back(name + ": " + *reason);
        std::fprintf(stderr, "  %s: ERROR: %s\n", name.c_str(), reason->c_str());
      } else if (run.run_type == Run::RT_Iteration) {
        seconds_[name].push_back(run.real_accumulated_time / static_cast<double>(run.iterations));
        reported.insert(name);
      }
    }
    for (const std::string& name : reported) {
      const Summary summary = of(name);
      std::fprintf(stderr, "  %s: %s (%s to %s, %zu repetitions)\n", name.c_str(),
                   format_seconds(summary.median).c_str(), format_seconds(summary.minimum).c_str(),
                   format_seconds(summary.maximum).c_str(), summary.count);
    }
  }

  /// Google Benchmark's JSON of everything reported; call once, at the end.
  nlohmann::json json() {
    json_.Finalize();
    return nlohmann::json::parse(text_.str());
  }

  /// Seconds per iteration of a case; nothing measured gives a count of 0.
  Summary of(const std::string& name) const {
    const auto found = seconds_.find(name);
    return found == seconds_.end() ? Summary{} : summarize(found->second);
  }

  const std::map<std::string, std::vector<double>>& seconds() const { return seconds_; }
  const std::vector<std::string>& errors() const { return errors_; }

 private:
  benchmark::JSONReporter json_;
  std::ostringstream text_;
  bool started_ = false;
  std::map<std::string, std::vector<double>> seconds_;
  std::vector<std::string> errors_;
};

}  // namespace benchmarks
