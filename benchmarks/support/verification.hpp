// Before anything is timed: every policy, cold and warm, must give the same bits.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

#include "settings.hpp"
#include "workload.hpp"

namespace benchmarks {

/// What a forward call without a cache gave and took.
struct Verified {
  std::uint64_t digest = 0;
  double seconds = 0.0;
};

/// By sequence length and ring size.
using Verification = std::map<std::pair<std::int64_t, std::int64_t>, Verified>;

/// Throws std::runtime_error that names the first output with other bits.
inline Verification verify_policies(const Settings& settings, Buffers& buffers) {
  Verification result;
  for (const std::int64_t n : settings.lengths) {
    for (const std::int64_t ring_size : settings.ring_sizes) {
      std::fprintf(stderr, "  verify n=%lld ring=%lld: ", static_cast<long long>(n),
                   static_cast<long long>(ring_size));
      const auto view = buffers.out(n);
      ra::Tensor<float> expected(view.shape());
      const Attention<ra::use_no_cache> plain(Workload::config(ring_size));
      const double seconds =
          seconds_of([&] { plain.forward(buffers.q(n), buffers.k(n), buffers.v(n), expected.view()); });

      const auto compare = [&](const char* what) {
        const auto bytes = static_cast<std::size_t>(view.size()) * sizeof(float);
        if (std::memcmp(view.data(), expected.data(), bytes) != 0) {
          throw std::runtime_error(std::string("outputs differ between policies: ") + what +
                                   ", n=" + std::to_string(n) + " ring=" + std::to_string(ring_size));
        }
        std::memset(view.data(), 0xff, bytes);  // NaN: a forward that writes nothing is found out
      };
      std::memset(view.data(), 0xff, static_cast<std::size_t>(view.size()) * sizeof(float));
      ra::clear_pattern_cache();
      const Attention<ra::use_pattern_cache> global(Workload::config(ring_size));
      forward(global, buffers, n);
      compare("global, cold");
      const Attention<ra::use_local_cache> local(Workload::config(ring_size));
      forward(local, buffers, n);
      compare("local, cold");
      if (n == settings.lengths.front()) {
        forward(global, buffers, n);
        compare("global, warm");
        forward(local, buffers, n);
        compare("local, warm");
      }
      result[{n, ring_size}] = {digest(expected.view()), seconds};
      std::fputs("bitwise equal\n", stderr);
    }
  }
  return result;
}

}  // namespace benchmarks
