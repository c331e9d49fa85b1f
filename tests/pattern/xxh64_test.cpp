#include <cstddef>
#include <cstdint>
#include <ring_attention/pattern/xxh64.hpp>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "support/catch.hpp"

namespace ra = ring_attention;

namespace {

std::vector<std::byte> counted_bytes(std::size_t count) {
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i < count; ++i) bytes.push_back(static_cast<std::byte>(i * 7 + 1));
  return bytes;
}

}  // namespace

TEST_CASE("XXH64 gives the values of its reference implementation", "[store][checksum]") {
  CHECK(ra::detail::xxh64(std::as_bytes(std::span(std::string_view("")))) == 0xef46db3751d8e999);
  CHECK(ra::detail::xxh64(std::as_bytes(std::span(std::string_view("abc")))) == 0x44bc2cf5ad770999);
  const std::vector<std::pair<std::size_t, std::uint64_t>> expected{
      {4, 0x22eda2cf6af4c124},  {8, 0xc6f1803a5e0b3222},  {13, 0xdfced2d95e03c38e},
      {31, 0x6ab1c40e29f50073}, {32, 0x5a0756fbe9ecd3d1}, {33, 0xdc50cdc37bb9c183},
      {40, 0x7899cacb89a78430}, {100, 0xd248bfc5208b0b16}};
  for (const auto& [count, value] : expected) {
    INFO(count << " bytes");
    CHECK(ra::detail::xxh64(counted_bytes(count)) == value);
  }
}

TEST_CASE("XXH64 of pieces is XXH64 of the whole", "[store][checksum]") {
  const std::vector<std::byte> bytes = counted_bytes(1000);
  const std::span<const std::byte> whole(bytes);
  for (std::size_t split = 0; split <= whole.size(); split += ra::detail::Xxh64::stripe_bytes) {
    ra::detail::Xxh64 hash;
    hash.update(whole.first(split));
    REQUIRE(hash.finish(whole.subspan(split)) == ra::detail::xxh64(whole));
  }
}
