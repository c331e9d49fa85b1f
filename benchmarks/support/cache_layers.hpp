// What the benchmark of the pattern cache runs: attention objects of every class under every cache policy,
// over the same inputs.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <ring_attention/ring_attention.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "problems.hpp"

namespace benchmarks {

inline ra::AttentionConfig cache_config(std::int64_t ring_size) {
  ra::AttentionConfig config = ra::ring_preset();
  config.segment_lengths = {2048, 4096, 8192};
  config.dilation_rates = {1, 2, 4};
  config.ring_size = ring_size;
  return config;
}

/// Inputs and an output for sequences of up to `tokens`; shorter ones use the beginning of the same memory.
class Buffers {
 public:
  Buffers(std::int64_t tokens, std::int64_t heads, std::int64_t head_dim)
      : q_(random_numbers<float>(tokens, heads, head_dim, examples::Operand::query)),
        k_(random_numbers<float>(tokens, heads, head_dim, examples::Operand::key)),
        v_(random_numbers<float>(tokens, heads, head_dim, examples::Operand::value)),
        out_(q_.shape()) {}

  ra::TensorView<const float> q(std::int64_t n) const { return {q_.data(), shape(n)}; }
  ra::TensorView<const float> k(std::int64_t n) const { return {k_.data(), shape(n)}; }
  ra::TensorView<const float> v(std::int64_t n) const { return {v_.data(), shape(n)}; }
  ra::TensorView<float> out(std::int64_t n) { return {out_.data(), shape(n)}; }

  /// So that a call that writes nothing is found out.
  void forget_out(std::int64_t n) {
    std::fill_n(out_.data(), out(n).size(), std::numeric_limits<float>::quiet_NaN());
  }

  /// 64-bit digest of the output's bits.
  std::uint64_t digest(std::int64_t n) const {
    std::uint64_t state = 0xcbf29ce484222325ULL;
    for (std::int64_t i = 0; i < q(n).size(); ++i) {
      state = std::rotl((state ^ std::bit_cast<std::uint32_t>(out_.data()[i])) * 0x9e3779b97f4a7c15ULL, 23);
    }
    return state;
  }

 private:
  ra::Shape shape(std::int64_t n) const { return {1, n, q_.shape()[2], q_.shape()[3]}; }

  ra::Tensor<float> q_, k_, v_, out_;
};

/// Looks patterns up, one after the other.
using LookUp = std::function<void(const std::vector<ra::PatternKey>&)>;

template <class Policy>
LookUp look_up_through(const Policy* policy, std::shared_ptr<const void> owner) {
  return [policy, owner](const std::vector<ra::PatternKey>& keys) {
    for (const ra::PatternKey& key : keys) {
      if (policy->dilated_indices(key) == nullptr) std::abort();  // never; so that it is not optimized away
    }
  };
}

/// One attention object, whatever its class and policy.
struct Layer {
  std::function<void(std::int64_t n)> forward;  ///< from the buffers' inputs to their output
  LookUp look_up;
  std::function<ra::PatternCacheStats()> stats;  ///< of its cache; zeros without one
};

template <class Attention>
Layer layer_of(std::shared_ptr<Attention> attention, Buffers& buffers) {
  const auto forward = [attention, &buffers](std::int64_t n) {
    const auto q = buffers.q(n), k = buffers.k(n), v = buffers.v(n);
    auto out = buffers.out(n);
    if constexpr (requires { attention->forward(q, k, v, out); }) {
      attention->forward(q, k, v, out);
    } else {
      const ra::Tensor<float> shard = attention->forward(q, k, v, n);
      std::copy_n(shard.data(), shard.size(), out.data());
    }
  };
  const auto& policy = attention->cache_policy();
  const auto stats = [attention]() -> ra::PatternCacheStats {
    const auto& own = attention->cache_policy();
    if constexpr (requires { own.stats(); }) return own.stats();
    if constexpr (std::is_same_v<decltype(own), const ra::use_pattern_cache&>) {
      return ra::get_global_pattern_cache().stats();
    }
    return {};
  };
  return {forward, look_up_through(&policy, attention), stats};
}

inline const std::vector<std::string> dilated_classes{"V2", "Production", "TrueRing", "Distributed"};
inline const std::vector<std::string> all_classes{"V2",          "Production",  "TrueRing",
                                                  "Distributed", "BlockSparse", "BlockSparseDistributed"};

/// A layer of the class of that name. Those that take shards are a ring of one, the class's own path without
/// anybody to exchange with.
template <class Policy>
Layer make_layer(std::string_view name, std::int64_t ring_size, Buffers& buffers) {
  using Alone = ra::AloneCommunicator;
  static Alone alone;
  const ra::AttentionConfig config = cache_config(ring_size), shard = cache_config(1);
  const ra::BlockSparseConfig window{
      .pattern = ra::BlockPattern::local_window, .block_size = 128, .window = 512};
  const auto make = [&buffers]<class Attention>(std::type_identity<Attention>, auto&&... arguments) {
    return layer_of(std::make_shared<Attention>(arguments...), buffers);
  };
  if (name == "V2") return make(std::type_identity<ra::RingDilatedAttentionV2<float, Policy>>(), config);
  if (name == "Production") {
    return make(std::type_identity<ra::RingDilatedAttentionProduction<float, Policy>>(), config);
  }
  if (name == "TrueRing") {
    return make(std::type_identity<ra::TrueRingDilatedAttention<float, Policy>>(), config);
  }
  if (name == "Distributed") {
    return make(std::type_identity<ra::RingDistributedDilatedAttention<float, Alone, Policy>>(), shard,
                alone);
  }
  if (name == "BlockSparse") {
    return make(std::type_identity<ra::BlockSparseRingDilatedAttention<float, Policy>>(), config, window);
  }
  return make(std::type_identity<ra::BlockSparseRingDistributedDilatedAttention<float, Alone, Policy>>(),
              shard, window, alone);
}

/// A cache policy under one set of operations.
struct PolicyUse {
  std::string name;
  Layer (*make_layer)(std::string_view attention_class, std::int64_t ring_size, Buffers& buffers);
  LookUp (*make_look_up)();  ///< through a policy object of its own
};

template <class Policy>
LookUp make_look_up() {
  const auto policy = std::make_shared<const Policy>();
  return look_up_through(policy.get(), policy);
}

template <class Policy>
PolicyUse use_of(const char* name) {
  return {name, &make_layer<Policy>, &make_look_up<Policy>};
}

inline const std::vector<PolicyUse> policies{use_of<ra::use_local_cache>("local"),
                                             use_of<ra::use_pattern_cache>("global"),
                                             use_of<ra::use_no_cache>("none")};

}  // namespace benchmarks
