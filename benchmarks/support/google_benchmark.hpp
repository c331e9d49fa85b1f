// Google Benchmark's JSON of several runs as one, with seconds by case. A case that did not run is an error.
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

#include "measuring.hpp"
#include "skipped_run.hpp"

namespace benchmarks {

class Collector : public benchmark::BenchmarkReporter {
 public:
  Collector() {
    json_.SetOutputStream(&text_);
    json_.SetErrorStream(&text_);
  }

  bool ReportContext(const Context& context) override {
    if (!std::exchange(started_, true)) json_.ReportContext(context);
    return true;
  }

  /// Keeps every repetition; what Google Benchmark derives from them, reports derive again.
  void ReportRuns(const std::vector<Run>& runs) override {
    std::vector<Run> repetitions;
    std::set<std::string> names;
    for (const Run& run : runs) {
      const std::string& name = run.run_name.function_name;
      if (const auto reason = reason_skipped(run)) {
        errors_.push_back(name + ": " + *reason);
        std::fprintf(stderr, "  %s: ERROR: %s\n", name.c_str(), reason->c_str());
      } else if (run.run_type == Run::RT_Iteration) {
        seconds_[name].push_back(run.real_accumulated_time / static_cast<double>(run.iterations));
        names.insert(name);
        repetitions.push_back(run);
      }
    }
    if (!repetitions.empty()) json_.ReportRuns(repetitions);
    for (const std::string& name : names) {
      const Summary seconds = of(name);
      std::fprintf(stderr, "  %-60s %.4g s (%.4g to %.4g, %zu repetitions)\n", name.c_str(), seconds.median,
                   seconds.minimum, seconds.maximum, seconds.count);
    }
  }

  /// Call once, at the end.
  nlohmann::json json() {
    json_.Finalize();
    return nlohmann::json::parse(text_.str());
  }

  /// Seconds per iteration of a case; a count of 0 if it was not measured.
  Summary of(const std::string& name) const {
    const auto found = seconds_.find(name);
    return found == seconds_.end() ? Summary{} : summarize(found->second);
  }

  const std::vector<std::string>& errors() const { return errors_; }

 private:
  benchmark::JSONReporter json_;
  std::ostringstream text_;
  bool started_ = false;
  std::map<std::string, std::vector<double>> seconds_;
  std::vector<std::string> errors_;
};

}  // namespace benchmarks
