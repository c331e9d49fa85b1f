// Before data moves: the members of a ring compare what they were called with.
#pragma once

#include <cstddef>
#include <exception>
#include <ring_attention/error.hpp>
#include <ring_attention/ring/communicator.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_NAMESPACE {
namespace detail {

/// Names and values that must be equal on every member.
using AgreementFields = std::vector<std::pair<std::string, std::string>>;

std::string packed(const AgreementFields& fields);

/// Why members with these parts, each an error and packed fields, cannot work together; empty where they can.
std::string find_disagreement(const std::vector<std::vector<std::byte>>& all);

/// Collective. `checked_fields()` checks this member's arguments and returns its fields. Throws
/// std::invalid_argument on every member alike, which leaves the ring as it was: for the lowest rank where
/// checked_fields() threw, whatever that was, else for the lowest rank that differs from rank 0, with the
/// field and both values. A member that waits in vain tells the ring, so that one that comes late does not
/// wait in turn; so does one that cannot even say what is wrong.
template <class Communicator, class CheckedFields>
void require_agreement(Communicator& communicator, const CheckedFields& checked_fields) {
  const std::string disagreement = tell_failure(communicator, [&] {
    std::string mine(1, '\0');  // no error
    try {
      mine += packed(checked_fields());
    } catch (const std::exception& invalid) {
      mine.assign(invalid.what()).append(1, '\0');
    }
    return find_disagreement(communicator.all_gather(std::as_bytes(std::span(mine))));
  });
  if (!disagreement.empty()) throw std::invalid_argument(disagreement);
}

#if RING_ATTENTION_DEFINES_ENGINE

RING_ATTENTION_INLINE std::string packed(const AgreementFields& fields) {
  std::string bytes;
  for (const auto& [name, value] : fields) bytes.append(name).append("\0", 1).append(value).append("\0", 1);
  return bytes;
}

RING_ATTENTION_INLINE std::string find_disagreement(const std::vector<std::vector<std::byte>>& all) {
  std::vector<std::vector<std::string_view>> parts;
  for (const auto& bytes : all) {
    std::vector<std::string_view>& words = parts.emplace_back();
    std::string_view rest(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    for (std::size_t end = rest.find('\0'); end != std::string_view::npos; end = rest.find('\0')) {
      words.push_back(rest.substr(0, end));
      rest.remove_prefix(end + 1);
    }
  }
  for (std::size_t rank = 0; rank < parts.size(); ++rank) {
    if (!parts[rank][0].empty()) return "rank " + std::to_string(rank) + ": " + std::string(parts[rank][0]);
  }
  for (std::size_t rank = 1; rank < parts.size(); ++rank) {
    for (std::size_t i = 1; i + 1 < parts[0].size(); i += 2) {
      if (i + 1 >= parts[rank].size() || parts[rank][i] != parts[0][i]) {
        return "rank " + std::to_string(rank) + " and rank 0 make different calls";
      }
      if (parts[rank][i + 1] != parts[0][i + 1]) {
        return invalid_text(std::string(parts[0][i]) + " on rank " + std::to_string(rank), parts[rank][i + 1],
                            "must equal rank 0's " + std::string(parts[0][i + 1]));
      }
    }
    if (parts[rank].size() != parts[0].size()) {
      return "rank " + std::to_string(rank) + " and rank 0 make different calls";
    }
  }
  return {};
}

#endif

}  // namespace detail
}  // namespace RING_ATTENTION_NAMESPACE
}  // namespace ring_attention
