// Lists of key blocks against their definition, and the keys that they are cached under.
#include <cstdint>
#include <ring_attention/pattern/block_sparse_config.hpp>
#include <ring_attention/pattern/cache_policy.hpp>
#include <ring_attention/pattern/make_indices.hpp>
#include <vector>

#include "support/block_case.hpp"
#include "support/catch.hpp"
#include "support/error_text.hpp"
#include "support/random.hpp"

namespace {

namespace ra = ring_attention;

ra::PatternKey key_of(const ra::BlockSparseConfig& sparse, bool causal, std::int64_t tokens) {
  return ra::detail::block_pattern_key(sparse, causal, tokens);
}

}  // namespace

TEST_CASE("Block lists agree with their definition", "[pattern][block_sparse]") {
  test::Random random(7);
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    const test::BlockCase c = test::make_block_case(seed);
    INFO(c.describe());
    const oracle::BlockProblem problem = test::to_block_problem(c.call, c.sparse);
    // A sequence may be shorter than the one that the pairs were listed for.
    const std::int64_t tokens = random.chance(0.5) ? c.call.q[1] : random.integer(0, c.call.q[1]);
    const std::int64_t blocks = (tokens + c.sparse.block_size - 1) / c.sparse.block_size;
    const auto lists = ra::make_indices(key_of(c.sparse, c.call.config.causal, tokens));
    REQUIRE(static_cast<std::int64_t>(lists->branches()) == blocks);
    for (std::int64_t i = 0; i < blocks; ++i) {
      std::vector<std::int64_t> expected;
      for (std::int64_t j = 0; j < (c.call.config.causal ? i + 1 : blocks); ++j) {
        if (oracle::active(problem, i, j)) expected.push_back(j);
      }
      const auto list = lists->rows(static_cast<std::size_t>(i));
      REQUIRE(std::vector<std::int64_t>(list.begin(), list.end()) == expected);
    }
  }
}

TEST_CASE("Keys of block lists differ where lists may differ", "[pattern][block_sparse]") {
  const ra::BlockSparseConfig local{.block_size = 16, .window = 32};
  const ra::PatternKey key = key_of(local, false, 320);
  CHECK(key == key_of(local, false, 305));                             // 20 blocks either way
  CHECK(key == key_of({.block_size = 32, .window = 64}, false, 640));  // the same blocks
  CHECK(key == key_of({.block_size = 16, .window = 17}, false, 320));  // rounded up to blocks
  CHECK(key != key_of(local, true, 320));
  CHECK(key != key_of(local, false, 304));
  CHECK(key != key_of({.block_size = 16, .window = 33}, false, 320));
  const ra::BlockSparseConfig global{
      .pattern = ra::BlockPattern::global_local, .block_size = 16, .window = 32, .global_tokens = 0};
  CHECK(key != key_of(global, false, 320));
  const auto custom = [](std::vector<ra::BlockPair> blocks) {
    return ra::BlockSparseConfig{.pattern = ra::BlockPattern::custom, .block_size = 16, .blocks = blocks};
  };
  const ra::PatternKey pairs = key_of(custom({{1, 0}, {2, 2}, {1, 0}}), false, 320);
  CHECK(pairs == key_of(custom({{2, 2}, {1, 0}}), false, 320));
  CHECK(pairs != key_of(custom({{2, 2}, {0, 1}}), false, 320));
  CHECK(ra::PatternKeyHash()(pairs) == ra::PatternKeyHash()(key_of(custom({{2, 2}, {1, 0}}), false, 320)));
  CHECK(key_of(custom({{1, 0}, {0, 1}}), true, 320) == key_of(custom({{1, 0}}), true, 320));
}

TEST_CASE("Keys of block lists that break a rule are refused", "[pattern][block_sparse]") {
  const auto text = [](const ra::PatternKey& key) {
    return test::error_text([&] { (void)ra::make_indices(key); });
  };
  using Kind = ra::PatternKind;
  CHECK(text({-1, {}, {}, 0, Kind::local_window, {0, 1}}) == "sequence_length = -1: must not be negative");
  CHECK(text({4, {}, {}, 0, Kind::local_window, {0}}) ==
        "parameters.size() = 1: a pattern of this kind needs at least 2");
  CHECK(text({4, {}, {}, 0, Kind::global_local, {0, 1, -1}}) == "parameters[2] = -1: must not be negative");
  CHECK(text({4, {}, {0}, 0, Kind::dilated_sparse, {0, 1}}) == "dilation_rates[0] = 0: must be positive");
  CHECK(text({4, {}, {}, 0, Kind::custom, {0, 1}}) ==
        "parameters.size() = 2: must be one and a number of pairs");
  CHECK(text({4, {}, {}, 0, Kind::custom, {0, 1, 4}}) == "parameters[2] = 4: must be a block in [0, 4)");
  CHECK(text({4, {}, {}, 0, Kind::custom, {0, 1, 2, 1, 2}}) ==
        "parameters[3] = 1: pairs of blocks must ascend");
  CHECK(test::error_text([] {
          (void)ra::make_dilated_indices({4, {}, {}, 0, Kind::custom, {0}});
        }) == "kind = 4: must be PatternKind::dilated; make_indices serves every kind");
}

TEST_CASE("Block lists are cached like dilations", "[pattern][block_sparse]") {
  ra::PatternCache cache;
  const ra::use_pattern_cache policy(cache);
  const ra::PatternKey key = key_of({.block_size = 16, .window = 32}, true, 320);
  const auto first = policy.dilated_indices(key);
  CHECK(policy.dilated_indices(key) == first);
  CHECK(cache.get_dilated_indices(key) == first);
  CHECK(*ra::use_no_cache().dilated_indices(key) == *first);
  CHECK(cache.stats().insertions == 1);
  CHECK(cache.stats().bytes >= first->bytes());
}
