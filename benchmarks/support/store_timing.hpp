// A large pattern made anew against the same one checked and mapped from a PatternStore.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <ring_attention/pattern/pattern_store.hpp>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "clock.hpp"
#include "format.hpp"
#include "statistics.hpp"

namespace benchmarks {

/// A folder for one file, removed with it.
class StoreFolder {
 public:
  StoreFolder()
      : path_(std::filesystem::temp_directory_path() /
              ("ring_attention_store_" + std::to_string(::getpid()))) {
    std::filesystem::create_directory(path_);
  }
  StoreFolder(const StoreFolder&) = delete;
  StoreFolder& operator=(const StoreFolder&) = delete;
  ~StoreFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  std::filesystem::path file() const { return path_ / "patterns"; }

 private:
  std::filesystem::path path_;
};

/// Making, saving and loading one pattern of 2^24 rows by one thread, in turn; the file stays in the page
/// cache.
inline nlohmann::json measure_pattern_store(int rounds) {
  constexpr std::int64_t rows = std::int64_t{1} << 24;
  const ra::PatternKey key{.sequence_length = 2 * rows, .segment_lengths = {2 * rows}, .dilation_rates = {2}};
  const StoreFolder folder;
  const ra::PatternStore store(folder.file());
  std::vector<double> making, saving, loading;
  std::uint64_t file_bytes = 0;
  for (int round = 0; round < rounds; ++round) {
    ra::PatternCache::Pattern pattern;
    making.push_back(seconds_of([&] { pattern = ra::make_dilated_indices(key); }));
    saving.push_back(seconds_of([&] { file_bytes = store.save({{key, pattern}}).bytes; }));
    pattern.reset();
    ra::PatternCache cache;
    ra::LoadReport report;
    loading.push_back(seconds_of([&] { report = store.load(cache); }));
    if (!report || cache.stats().entries != 1) throw std::runtime_error("pattern store: " + report.text);
  }
  const Summary made = summarize(making), loaded = summarize(loading);
  std::fprintf(stderr, "  made in %s, loaded in %s\n", format_seconds(made.median).c_str(),
               format_seconds(loaded.median).c_str());
  return {{"rows", rows},
          {"pattern_bytes", rows * static_cast<std::int64_t>(sizeof(std::int64_t))},
          {"file_bytes", file_bytes},
          {"making_seconds", to_json(made)},
          {"saving_seconds", to_json(summarize(saving))},
          {"loading_seconds", to_json(loaded)}};
}

}  // namespace benchmarks
