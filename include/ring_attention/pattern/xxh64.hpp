// XXH64 (xxhash.com), the checksum of pattern files.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ring_attention/version.hpp>
#include <span>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Chosen over a CRC or FNV because it takes several bytes per cycle without special instructions, so that
/// checking a file costs less than reading it, and because `xxhsum -H64` checks it from outside. It guards
/// against damage; whoever can write the file can also write a fitting checksum.
class Xxh64 {
 public:
  static constexpr std::size_t stripe_bytes = 32;

  /// Takes whole stripes: the number of bytes must be a multiple of stripe_bytes.
  void update(std::span<const std::byte> bytes) {
    for (std::size_t at = 0; at < bytes.size(); at += stripe_bytes) {
      for (std::size_t i = 0; i < lanes_.size(); ++i) {
        lanes_[i] = round(lanes_[i], read<std::uint64_t>(bytes, at + 8 * i));
      }
    }
    length_ += bytes.size();
  }

  /// Takes the last bytes, of any number, and returns the checksum of everything taken.
  std::uint64_t finish(std::span<const std::byte> bytes) {
    const std::size_t whole = bytes.size() - bytes.size() % stripe_bytes;
    update(bytes.first(whole));
    const std::span<const std::byte> tail = bytes.subspan(whole);
    std::uint64_t hash = p5;
    if (length_ > 0) {
      hash = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) +
             std::rotl(lanes_[3], 18);
      for (const std::uint64_t lane : lanes_) hash = (hash ^ round(0, lane)) * p1 + p4;
    }
    hash += length_ + tail.size();
    std::size_t at = 0;
    for (; at + 8 <= tail.size(); at += 8) {
      hash = std::rotl(hash ^ round(0, read<std::uint64_t>(tail, at)), 27) * p1 + p4;
    }
    for (; at + 4 <= tail.size(); at += 4) {
      hash = std::rotl(hash ^ (read<std::uint32_t>(tail, at) * p1), 23) * p2 + p3;
    }
    for (; at < tail.size(); ++at) {
      hash = std::rotl(hash ^ (std::to_integer<std::uint64_t>(tail[at]) * p5), 11) * p1;
    }
    hash = (hash ^ (hash >> 33)) * p2;
    hash = (hash ^ (hash >> 29)) * p3;
    return hash ^ (hash >> 32);
  }

 private:
  static constexpr std::uint64_t p1 = 0x9e3779b185ebca87;
  static constexpr std::uint64_t p2 = 0xc2b2ae3d27d4eb4f;
  static constexpr std::uint64_t p3 = 0x165667b19e3779f9;
  static constexpr std::uint64_t p4 = 0x85ebca77c2b2ae63;
  static constexpr std::uint64_t p5 = 0x27d4eb2f165667c5;

  static std::uint64_t round(std::uint64_t lane, std::uint64_t word) {
    return std::rotl(lane + word * p2, 31) * p1;
  }

  template <class Word>
  static Word read(std::span<const std::byte> bytes, std::size_t at) {
    Word word;
    std::memcpy(&word, bytes.data() + at, sizeof word);
    if constexpr (std::endian::native == std::endian::big) {  // XXH64 is defined on little-endian words
      Word swapped = 0;
      for (std::size_t i = 0; i < sizeof word; ++i) swapped = (swapped << 8) | ((word >> (8 * i)) & 0xff);
      word = swapped;
    }
    return word;
  }

  std::array<std::uint64_t, 4> lanes_{p1 + p2, p2, 0, 0 - p1};
  std::uint64_t length_ = 0;
};

inline std::uint64_t xxh64(std::span<const std::byte> bytes) { return Xxh64().finish(bytes); }

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
