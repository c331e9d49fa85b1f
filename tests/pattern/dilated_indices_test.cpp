#include <ring_attention/pattern/dilated_indices.hpp>
#include <stdexcept>
#include <string>
#include <unordered_set>
#include <vector>

#include "support/catch.hpp"
#include "support/error_text.hpp"

namespace ra = ring_attention;

namespace {

/// Rows t of a segment with t % r == o, found by trying each.
std::vector<std::int64_t> kept_rows(std::int64_t n, std::int64_t w, std::int64_t r, std::int64_t o) {
  std::vector<std::int64_t> rows;
  for (std::int64_t t = 0; t < w && t < n; ++t) {
    if (t % r == o) rows.push_back(t);
  }
  return rows;
}

std::vector<std::int64_t> rows_of(const ra::DilatedIndices& indices, std::size_t branch) {
  const auto rows = indices.rows(branch);
  return {rows.begin(), rows.end()};
}

ra::PatternKey small_key() { return {64, {16, 32}, {1, 2}, 1}; }

}  // namespace

TEST_CASE("dilated rows agree with a search over all rows", "[pattern]") {
  for (const std::int64_t n : {0, 1, 2, 5, 16, 17, 31}) {
    for (std::int64_t w = 1; w <= 20; ++w) {
      for (std::int64_t r = 1; r <= 23; ++r) {
        for (std::int64_t o = 0; o <= r + 1; ++o) {
          const auto indices = ra::make_dilated_indices({n, {w}, {r}, o});
          const auto expected = kept_rows(n, w, r, o);
          INFO("n " << n << ", w " << w << ", r " << r << ", o " << o);
          REQUIRE(indices->branches() == 1);
          REQUIRE(rows_of(*indices, 0) == expected);
          if (o < r) {
            REQUIRE(ra::count_dilated_rows(std::min(n, w), r, o) ==
                    static_cast<std::int64_t>(expected.size()));
          }
        }
      }
    }
  }
}

TEST_CASE("every branch of a key has its own rows", "[pattern]") {
  const std::vector<std::int64_t> lengths{4, 100, 7, 1, 33};
  const std::vector<std::int64_t> rates{1, 3, 9, 2, 5};
  for (std::int64_t o = 0; o < 9; ++o) {
    const auto indices = ra::make_dilated_indices({50, lengths, rates, o});
    REQUIRE(indices->branches() == lengths.size());
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      INFO("branch " << i << ", offset " << o);
      REQUIRE(rows_of(*indices, i) == kept_rows(50, lengths[i], rates[i], o));
    }
  }
}

TEST_CASE("a pattern takes O(w / r) memory however long the sequence", "[pattern]") {
  const auto indices = ra::make_dilated_indices({std::int64_t{1} << 40, {2048}, {16}, 3});
  REQUIRE(indices->rows().size() == 2048 / 16);
  REQUIRE(indices->bytes() < 4096);
}

TEST_CASE("a key without branches has a pattern without branches", "[pattern]") {
  REQUIRE(ra::make_dilated_indices({8, {}, {}, 0})->branches() == 0);
}

TEST_CASE("pattern keys compare by every field and equal keys hash equal", "[pattern]") {
  const ra::PatternKeyHash hash;
  REQUIRE(small_key() == small_key());
  REQUIRE(hash(small_key()) == hash(small_key()));

  std::vector<ra::PatternKey> others(6, small_key());
  others[0].sequence_length = 65;
  others[1].offset = 0;
  others[2].segment_lengths[0] = 17;
  others[3].dilation_rates[1] = 3;
  others[4].segment_lengths.push_back(8);
  others[5].dilation_rates.clear();
  for (const auto& other : others) REQUIRE_FALSE(other == small_key());
}

TEST_CASE("pattern keys that exchange values between fields differ and hash apart", "[pattern]") {
  std::vector<ra::PatternKey> keys{{4, {2, 3}, {1, 5}, 0}, {4, {2, 3, 1}, {5}, 0}, {4, {2}, {3, 1, 5}, 0},
                                   {4, {3, 2}, {1, 5}, 0}, {4, {2, 3}, {5, 1}, 0}, {0, {2, 3}, {1, 5}, 4}};
  std::unordered_set<std::size_t> hashes;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    hashes.insert(ra::PatternKeyHash{}(keys[i]));
    for (std::size_t j = 0; j < i; ++j) REQUIRE_FALSE(keys[i] == keys[j]);
  }
  REQUIRE(hashes.size() == keys.size());
}

TEST_CASE("hashes of neighbouring keys spread", "[pattern]") {
  std::unordered_set<std::size_t> hashes;
  for (std::int64_t n = 1; n <= 100; ++n) {
    for (std::int64_t o = 0; o < 100; ++o) hashes.insert(ra::PatternKeyHash{}({n, {64}, {4}, o}));
  }
  REQUIRE(hashes.size() == 10000);
}

TEST_CASE("invalid pattern keys are refused with argument, value and rule", "[pattern][errors]") {
  const auto message = [](const ra::PatternKey& key) {
    return test::error_text([&key] { ra::make_dilated_indices(key); });
  };
  REQUIRE(message({-1, {4}, {1}, 0}) == "sequence_length = -1: must not be negative");
  REQUIRE(message({8, {4}, {1}, -2}) == "offset = -2: must not be negative");
  REQUIRE(message({8, {4, 8}, {1}, 0}) == "dilation_rates.size() = 1: must equal segment_lengths.size() = 2");
  REQUIRE(message({8, {4, 0}, {1, 2}, 0}) == "segment_lengths[1] = 0: must be positive");
  REQUIRE(message({8, {-4}, {1}, 0}) == "segment_lengths[0] = -4: must be positive");
  REQUIRE(message({8, {4}, {0}, 0}) == "dilation_rates[0] = 0: must be positive");
}

TEST_CASE("invalid pattern contents are refused", "[pattern][errors]") {
  const auto message = [](std::vector<std::int64_t> begin, std::vector<std::int64_t> rows) {
    return test::error_text([&] { ra::DilatedIndices(std::move(begin), std::move(rows)); });
  };
  REQUIRE(message({}, {}) == "begin = 0: must run from 0 to the number of rows");
  REQUIRE(message({1, 2}, {5, 6}) == "begin = 2: must run from 0 to the number of rows");
  REQUIRE(message({0, 1}, {5, 6}) == "begin = 2: must run from 0 to the number of rows");
  REQUIRE(message({0, 3, 2, 3}, {5, 6, 7}) == "begin[2] = 2: must not descend");
  REQUIRE(test::error_text([] {
            ra::make_dilated_indices({8, {4}, {1}, 0})->rows(1);
          }) == "branch = 1: the pattern has 1 branches");
}
