#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <ring_attention/ring_attention.hpp>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "support/catch.hpp"
#include "support/error_text.hpp"
#include "support/scratch_folder.hpp"
#include "support/stored_patterns.hpp"

namespace ra = ring_attention;

namespace {

ra::AttentionConfig patterned_config() {
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {8, 20};
  config.dilation_rates = {1, 3};
  return config;
}

ra::Tensor<float> numbers(int seed) {
  ra::Tensor<float> tensor(2, 37, 4, 8);
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    tensor.data()[i] = static_cast<float>((i * 7919 + seed * 104729) % 257) / 128.0f - 1.0f;
  }
  return tensor;
}

/// Lines of the process's memory map that name the file.
[[maybe_unused]] int mappings_of(const std::filesystem::path& path) {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find(path.string()) != std::string::npos;
  return count;
}

}  // namespace

TEST_CASE("a cache lists its entries, most recently used first, and counts no hit", "[cache][store]") {
  ra::PatternCache cache;
  CHECK(cache.entries().empty());
  auto patterns = test::small_patterns();
  patterns.resize(4);
  for (const auto& [key, pattern] : patterns) cache.put_dilated_indices(key, pattern);
  cache.get_dilated_indices(patterns[1].first);
  const auto before = cache.stats();
  const std::vector<test::KeyedPattern> expected{patterns[1], patterns[3], patterns[2], patterns[0]};
  CHECK(cache.entries() == expected);  // the same objects
  CHECK(cache.entries() == expected);
  CHECK(cache.stats().hits == before.hits);
  CHECK(cache.stats().misses == before.misses);
}

TEST_CASE("patterns return from a file as they were, in their order of use", "[store]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  ra::PatternCache cache;
  for (const auto& [key, pattern] : test::small_patterns()) cache.put_dilated_indices(key, pattern);
  const ra::SaveReport saved = store.save(cache);
  CHECK(saved.patterns == 8);
  CHECK(saved.bytes == std::filesystem::file_size(store.path()));
  CHECK(saved.durable == (RING_ATTENTION_HAS_POSIX_FILES != 0));
  CHECK(folder.names() == std::set<std::string>{"patterns"});

  for (const auto& way : test::ways_to_load()) {
    INFO(way.name);
    ra::PatternCache loaded;
    const ra::LoadReport report = way.load(store.path(), loaded);
    CHECK(report);
    CHECK(report.status == ra::LoadStatus::loaded);
    CHECK(report.text.find(store.path().string() + ": 8 patterns") == 0);
    CHECK(report.patterns == 8);
    CHECK(report.already_cached == 0);
    CHECK(report.bytes_mapped == (way.maps ? saved.bytes : 0));
    CHECK(test::same_patterns(loaded.entries(), cache.entries()));
    for (const auto& [key, pattern] : loaded.entries()) CHECK(pattern->mapped() == way.maps);
  }
}

TEST_CASE("patterns of every length around the writer's blocks return as they were", "[store]") {
  const test::ScratchFolder folder;
  constexpr std::int64_t block = std::int64_t{1} << 17;
  constexpr std::int64_t words_beside = 8 + 2 + 2;  // of a pattern with one branch
  for (const std::int64_t rows : {block - words_beside - 1, block - words_beside, block - words_beside + 1,
                                  block, 2 * block - words_beside, 2 * block + 3}) {
    INFO(rows << " rows");
    const auto patterns = test::make_patterns({{rows, {rows}, {1}, 0}, {5, {3}, {2}, 1}});
    const ra::PatternStore store(folder / "patterns");
    store.save(patterns);
    ra::detail::save_patterns<ra::detail::StandardOutput>(folder / "standard", patterns);
    REQUIRE((test::read_file(folder / "standard") == test::read_file(store.path())));
    for (const auto& way : test::ways_to_load()) {
      ra::PatternCache cache;
      for (const auto& path : {store.path(), folder / "standard"}) {
        REQUIRE(way.load(path, cache));
        REQUIRE(cache.get_dilated_indices(patterns[0].first) != nullptr);
        REQUIRE(*cache.get_dilated_indices(patterns[0].first) == *patterns[0].second);
        REQUIRE(*cache.get_dilated_indices(patterns[1].first) == *patterns[1].second);
        cache.clear();
      }
    }
  }
}

TEST_CASE("an empty cache is saved and loaded", "[store]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  ra::PatternCache cache;
  CHECK(store.save(cache).patterns == 0);
  CHECK(store.load(cache));
  CHECK(cache.stats().entries == 0);
}

TEST_CASE("without arguments the store saves and loads the global cache", "[store][global]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  ra::clear_pattern_cache();
  const ra::PatternKey key{100, {40}, {3}, 2};
  ra::get_global_pattern_cache().find_or_compute(key, ra::make_dilated_indices);
  CHECK(store.save().patterns == 1);
  ra::clear_pattern_cache();
  CHECK(store.load().patterns == 1);
  CHECK(*ra::get_global_pattern_cache().get_dilated_indices(key) == *ra::make_dilated_indices(key));
  ra::clear_pattern_cache();
}

TEST_CASE("a forward pass with loaded patterns only hits, and its result is bitwise the same", "[store]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  const auto q = numbers(1), k = numbers(2), v = numbers(3);
  ra::PatternCache computed;
  const auto expected =
      ra::RingDilatedAttentionV2<float>(patterned_config(), ra::use_pattern_cache(computed)).forward(q, k, v);
  store.save(computed);
  for (const auto& way : test::ways_to_load()) {
    INFO(way.name);
    ra::PatternCache cache;
    REQUIRE(way.load(store.path(), cache));
    const auto out =
        ra::RingDilatedAttentionV2<float>(patterned_config(), ra::use_pattern_cache(cache)).forward(q, k, v);
    CHECK(cache.stats().misses == 0);
    CHECK(cache.stats().hits > 0);
    CHECK(std::memcmp(out.data(), expected.data(), static_cast<std::size_t>(out.size()) * sizeof(float)) ==
          0);
  }
}

TEST_CASE("block-sparse attention takes its lists from a file", "[store][block_sparse]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  const auto q = numbers(1), k = numbers(2), v = numbers(3);
  for (const auto pattern : {ra::BlockPattern::local_window, ra::BlockPattern::dilated_sparse,
                             ra::BlockPattern::global_local, ra::BlockPattern::custom}) {
    ra::BlockSparseConfig sparse{.pattern = pattern, .block_size = 4, .window = 8};
    if (pattern == ra::BlockPattern::custom) sparse.blocks = {{1, 0}, {2, 2}};
    using Attention = ra::BlockSparseRingDilatedAttention<float>;
    ra::PatternCache computed, loaded;
    const auto expected =
        Attention(patterned_config(), sparse, ra::use_pattern_cache(computed)).forward(q, k, v);
    store.save(computed);
    REQUIRE(store.load(loaded));
    const auto out = Attention(patterned_config(), sparse, ra::use_pattern_cache(loaded)).forward(q, k, v);
    CHECK(loaded.stats().misses == 0);
    CHECK(loaded.stats().hits > 0);
    CHECK(std::memcmp(out.data(), expected.data(), static_cast<std::size_t>(out.size()) * sizeof(float)) ==
          0);
  }
}

TEST_CASE("a cache keeps the objects that it has when a file brings equal ones", "[store]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  const auto patterns = test::small_patterns();
  store.save(patterns);
  ra::PatternCache cache;
  cache.put_dilated_indices(patterns[0].first, patterns[0].second);
  const ra::LoadReport first = store.load(cache);
  CHECK(first.patterns == 8);
  CHECK(first.already_cached == 1);
  CHECK(cache.get_dilated_indices(patterns[0].first) == patterns[0].second);
  const ra::LoadReport second = store.load(cache);
  CHECK(second.already_cached == 8);
  CHECK(second.bytes_mapped == 0);
}

TEST_CASE("a mapped pattern costs its process next to nothing, a pattern that was read its size", "[store]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  const auto patterns = test::make_patterns({{100000, {100000}, {1}, 0}});
  constexpr std::size_t list = 100000 * sizeof(std::int64_t);
  CHECK_FALSE(patterns[0].second->mapped());
  CHECK(patterns[0].second->bytes() >= list);
  store.save(patterns);
  for (const auto& way : test::ways_to_load()) {
    INFO(way.name);
    ra::PatternCache cache(way.maps ? 4096 : list + 4096);
    REQUIRE(way.load(store.path(), cache));
    REQUIRE(cache.stats().entries == 1);
    CHECK((cache.stats().bytes < list) == way.maps);
  }
}

TEST_CASE("the mapping lasts as long as any of its patterns", "[store]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  const auto patterns = test::small_patterns();
  store.save(patterns);
  ra::PatternCache::Pattern kept;
  std::unique_ptr<ra::DilatedIndices> copy;
  {
    ra::PatternCache cache;
    REQUIRE(store.load(cache));
    kept = cache.get_dilated_indices(patterns[0].first);
  }
  std::filesystem::remove(store.path());
  CHECK(*kept == *patterns[0].second);
  copy = std::make_unique<ra::DilatedIndices>(*kept);
  kept.reset();
  CHECK(*copy == *patterns[0].second);
#if defined(__linux__) && RING_ATTENTION_HAS_POSIX_FILES
  CHECK(mappings_of(store.path()) == 1);
  copy.reset();
  CHECK(mappings_of(store.path()) == 0);
#endif
}

TEST_CASE("patterns that view a file can be saved over it", "[store]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  const auto patterns = test::small_patterns();
  store.save(patterns);
  ra::PatternCache cache;
  REQUIRE(store.load(cache));
  store.save(cache);
  CHECK(test::same_patterns(cache.entries(), patterns));
  ra::PatternCache again;
  REQUIRE(store.load(again));
  CHECK(test::same_patterns(again.entries(), patterns));
}

TEST_CASE("only patterns of their keys are saved", "[store][errors]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  const auto error = [&store](const std::vector<test::KeyedPattern>& patterns) {
    return test::error_text([&] { store.save(patterns); });
  };
  const ra::PatternKey key{64, {16}, {2}, 1};
  const auto pattern = ra::make_dilated_indices(key);
  CHECK(error({{key, pattern}, {key, nullptr}}) == "patterns[1] = null: a pattern is needed");
  CHECK(error({{key, ra::make_dilated_indices({64, {16}, {2}, 0})}}) ==
        "patterns[0] = other rows: must be the pattern that make_indices computes for its key");
  const ra::PatternKey blocks{5, {}, {}, 0, ra::PatternKind::local_window, {0, 1}};
  ra::PatternKey causal = blocks;
  causal.parameters[0] = 1;
  CHECK(error({{causal, ra::make_indices(blocks)}}) ==
        "patterns[0] = other rows: must be the pattern that make_indices computes for its key");
  causal.kind = static_cast<ra::PatternKind>(99);
  CHECK(error({{causal, ra::make_indices(blocks)}}) == "kind = 99: is not a value of PatternKind");
  CHECK(error({{{64, {16}, {0}, 1}, pattern}}) == "dilation_rates[0] = 0: must be positive");
  CHECK(folder.names().empty());
}

TEMPLATE_TEST_CASE("a save that cannot be done says why and leaves nothing behind", "[store][errors]",
                   ra::detail::NativeOutput, ra::detail::StandardOutput) {
  const test::ScratchFolder folder;
  const auto code = [](const std::filesystem::path& path) {
    try {
      ra::detail::save_patterns<TestType>(path, test::small_patterns());
    } catch (const std::filesystem::filesystem_error& error) {
      CHECK(std::string(error.what()).find(path.string()) != std::string::npos);
      return error.code();
    }
    return std::error_code();
  };
  CHECK(code(folder / "no such folder" / "patterns") == std::errc::no_such_file_or_directory);
  std::filesystem::create_directories(folder / "folder" / "inside");
  CHECK(code(folder / "folder") == std::errc::is_a_directory);
  CHECK(folder.names() == std::set<std::string>{"folder"});
}

TEST_CASE("names that other writers' files have are left alone", "[store]") {
  const test::ScratchFolder folder;
  const ra::PatternStore store(folder / "patterns");
  test::write_file(folder / "patterns.tmp0", "another writer's");
  store.save(test::small_patterns());
  CHECK(folder.names() == std::set<std::string>{"patterns", "patterns.tmp0"});
  CHECK(test::read_file(folder / "patterns.tmp0") == "another writer's");
}
