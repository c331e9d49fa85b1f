// Small helpers on the library's tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ring_attention/tensor.hpp>

#include "support/random.hpp"

namespace test {

namespace ra = ring_attention;

template <class T>
ra::Tensor<T> random_tensor(const ra::Shape& shape, std::uint64_t seed) {
  Random random(seed);
  ra::Tensor<T> tensor(shape);
  for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.data()[i] = T(static_cast<float>(random.normal()));
  return tensor;
}

template <class T, class U>
ra::Tensor<T> convert(const ra::Tensor<U>& from) {
  ra::Tensor<T> to(from.shape());
  for (std::int64_t i = 0; i < to.size(); ++i) to.data()[i] = T(from.data()[i]);
  return to;
}

/// The same bits, so that NaN equals itself and 0 differs from -0.
template <class T>
bool bitwise_equal(const ra::Tensor<T>& a, const ra::Tensor<T>& b) {
  if (a.shape() != b.shape()) return false;
  return a.size() == 0 ||
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

/// q, k and v of one call.
template <class T>
struct CallInputs {
  ra::Tensor<T> q, k, v;
};

template <class T>
CallInputs<T> random_inputs(const ra::Shape& q, std::int64_t kv_heads, std::uint64_t seed = 1) {
  const ra::Shape k{q[0], q[1], kv_heads, q[3]};
  return {random_tensor<T>(q, 3 * seed), random_tensor<T>(k, 3 * seed + 1),
          random_tensor<T>(k, 3 * seed + 2)};
}

}  // namespace test
