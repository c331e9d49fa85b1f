// The attention classes under one set of operations, for the cases that run every class at one size.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <ring_attention/ring_attention.hpp>
#include <string_view>

#include "policies.hpp"
#include "workload.hpp"

namespace benchmarks {

/// A class whose constructor takes a configuration alone.
template <template <class, class> class Class>
struct WholeTensors {
  template <class Policy>
  static auto make(std::int64_t ring_size) {
    return std::make_unique<Class<float, Policy>>(Workload::config(ring_size));
  }
  template <class Attention>
  static void forward(const Attention& attention, Buffers& buffers, std::int64_t n) {
    attention.forward(buffers.q(n), buffers.k(n), buffers.v(n), buffers.out(n));
  }
  static constexpr bool dilated = true;
};

struct V2 : WholeTensors<ra::RingDilatedAttentionV2> {
  static constexpr std::string_view name = "V2";
};
struct Production : WholeTensors<ra::RingDilatedAttentionProduction> {
  static constexpr std::string_view name = "Production";
};
struct TrueRing : WholeTensors<ra::TrueRingDilatedAttention> {
  static constexpr std::string_view name = "TrueRing";
};

/// One rank of one: the class's own path without anybody to exchange with. Its output is copied into the
/// buffers.
struct Shards {
  template <class Attention>
  static void forward(const Attention& attention, Buffers& buffers, std::int64_t n) {
    const ra::Tensor<float> out = attention.forward(buffers.q(n), buffers.k(n), buffers.v(n), n);
    std::copy_n(out.data(), out.size(), buffers.out(n).data());
  }
  static ra::AloneCommunicator& alone() {
    static ra::AloneCommunicator communicator;
    return communicator;
  }
};

struct Distributed : Shards {
  static constexpr std::string_view name = "Distributed";
  static constexpr bool dilated = true;

  template <class Policy>
  static auto make(std::int64_t) {
    return std::make_unique<ra::RingDistributedDilatedAttention<float, ra::AloneCommunicator, Policy>>(
        Workload::config(1), alone());
  }
};

inline ra::BlockSparseConfig window() {
  ra::BlockSparseConfig sparse;
  sparse.pattern = ra::BlockPattern::local_window;
  sparse.block_size = 128;
  sparse.window = 512;
  return sparse;
}

struct BlockSparse : WholeTensors<ra::BlockSparseRingDilatedAttention> {
  static constexpr std::string_view name = "BlockSparse";
  static constexpr bool dilated = false;

  template <class Policy>
  static auto make(std::int64_t ring_size) {
    return std::make_unique<ra::BlockSparseRingDilatedAttention<float, Policy>>(Workload::config(ring_size),
                                                                                window());
  }
};

struct BlockSparseDistributed : Shards {
  static constexpr std::string_view name = "BlockSparseDistributed";
  static constexpr bool dilated = false;

  template <class Policy>
  static auto make(std::int64_t) {
    using Attention = ra::BlockSparseRingDistributedDilatedAttention<float, ra::AloneCommunicator, Policy>;
    return std::make_unique<Attention>(Workload::config(1), window(), alone());
  }
};

/// Calls action.template operator()<Class>() for each class.
template <class Action>
void for_each_class(Action action) {
  action.template operator()<V2>();
  action.template operator()<Production>();
  action.template operator()<TrueRing>();
  action.template operator()<Distributed>();
  action.template operator()<BlockSparse>();
  action.template operator()<BlockSparseDistributed>();
}

}  // namespace benchmarks
