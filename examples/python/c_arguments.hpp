// From arguments in C to those of the library, and from exceptions to a status.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <ring_attention/config.hpp>
#include <ring_attention/tensor.hpp>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "ring_attention_c.h"

namespace c_interface {

namespace ra = ring_attention;

/// Of the calling thread.
inline thread_local char last_error[1024] = "";

inline ring_attention_status fail(ring_attention_status status, const char* text) {
  static_cast<void>(std::snprintf(last_error, sizeof last_error, "%s", text));
  return status;
}

/// Runs a call; `translate(error)` may know a status for exceptions of its own.
template <class Call, class Translate>
ring_attention_status guarded(const Call& call, const Translate& translate) noexcept {
  try {
    call();
    return RING_ATTENTION_OK;
  } catch (const std::invalid_argument& error) {
    return fail(RING_ATTENTION_INVALID_ARGUMENT, error.what());
  } catch (const std::bad_alloc& error) {
    return fail(RING_ATTENTION_OUT_OF_MEMORY, error.what());
  } catch (const std::exception& error) {
    return fail(translate(error), error.what());
  } catch (...) {
    return fail(RING_ATTENTION_FAILED, "an exception of unknown type");
  }
}
template <class Call>
ring_attention_status guarded(const Call& call) noexcept {
  return guarded(call, [](const std::exception&) { return RING_ATTENTION_FAILED; });
}

template <class T>
const T& required(const T* argument, const char* name) {
  if (argument == nullptr) throw std::invalid_argument(std::string(name) + " = null: must not be null");
  return *argument;
}

/// A number of an enumeration with `count` values.
template <class Enumeration>
Enumeration enumerator(std::int32_t number, std::int32_t count, const char* name) {
  if (number < 0 || number >= count) {
    throw std::invalid_argument(std::string(name) + " = " + std::to_string(number) + ": must lie in [0, " +
                                std::to_string(count - 1) + "]");
  }
  return static_cast<Enumeration>(number);
}

static_assert(static_cast<int>(ra::HeadPartition::shared) == 1 &&
                  static_cast<int>(ra::OffsetRule::by_head) == 1 &&
                  static_cast<int>(ra::OffsetRule::by_head_block) == 2 &&
                  static_cast<int>(ra::QueryRule::dilated) == 1 &&
                  static_cast<int>(ra::PaddingRule::zero_attended) == 1 &&
                  static_cast<int>(ra::MixGradient::detached) == 1,
              "ring_attention_c.h says these numbers");

/// Throws for a size that no version of the configuration had.
inline void check_size(const ring_attention_config& given) {
  constexpr std::size_t first_version = offsetof(ring_attention_config, scale) + sizeof given.scale;
  constexpr std::size_t most = 4096;  // a size that was not set must not lead astray
  if (given.size < first_version || given.size > most) {
    throw std::invalid_argument("config.size = " + std::to_string(given.size) +
                                ": must be sizeof(ring_attention_config)");
  }
}

/// What an older or a newer program gave, as this library knows it.
inline ring_attention_config known_fields(const ring_attention_config* argument) {
  const std::size_t size = required(argument, "config").size;
  check_size(*argument);
  const auto* const bytes = reinterpret_cast<const unsigned char*>(argument);
  for (std::size_t i = sizeof(ring_attention_config); i < size; ++i) {
    if (bytes[i] == 0) continue;
    throw std::invalid_argument("config.size = " + std::to_string(size) +
                                ": the program sets a field that this library is too old to know");
  }
  ring_attention_config known{};
  std::memcpy(&known, argument, size < sizeof known ? size : sizeof known);
  return known;
}

inline ra::AttentionConfig config_of(const ring_attention_config* argument) {
  const ring_attention_config given = known_fields(argument);
  if (given.branches < 0) {
    throw std::invalid_argument("config.branches = " + std::to_string(given.branches) +
                                ": must not be negative");
  }
  ra::AttentionConfig config;
  if (given.branches > 0) {
    const std::int64_t* w = &required(given.segment_lengths, "config.segment_lengths");
    const std::int64_t* r = &required(given.dilation_rates, "config.dilation_rates");
    config.segment_lengths.assign(w, w + given.branches);
    config.dilation_rates.assign(r, r + given.branches);
  }
  config.ring_size = given.ring_size;
  config.causal = given.causal != 0;
  if (given.has_scale != 0) config.scale = given.scale;
  config.head_partition = enumerator<ra::HeadPartition>(given.head_partition, 2, "config.head_partition");
  config.offset_rule = enumerator<ra::OffsetRule>(given.offset_rule, 3, "config.offset_rule");
  config.query_rule = enumerator<ra::QueryRule>(given.query_rule, 2, "config.query_rule");
  config.padding_rule = enumerator<ra::PaddingRule>(given.padding_rule, 2, "config.padding_rule");
  config.mix_gradient = enumerator<ra::MixGradient>(given.mix_gradient, 2, "config.mix_gradient");
  return config;
}

inline std::vector<std::int64_t> lengths_of(const ring_attention_lengths& lengths) {
  if (lengths.count < 0) {
    throw std::invalid_argument("lengths.count = " + std::to_string(lengths.count) +
                                ": must not be negative");
  }
  if (lengths.count == 0) return {};
  const std::int64_t* values = &required(lengths.values, "lengths.values");
  return {values, values + lengths.count};
}

/// View is ra::TensorView<T> or ra::cuda::View<T>.
template <class View>
View view_of(const ring_attention_tensor* argument, const char* name) {
  const ring_attention_tensor& given = required(argument, name);
  using T = std::remove_pointer_t<decltype(View().data())>;
  return View(static_cast<T*>(given.data), {given.shape[0], given.shape[1], given.shape[2], given.shape[3]},
              {given.strides[0], given.strides[1], given.strides[2]});
}

/// Calls `visit` with a number of the type that `scalar` names.
template <class Visit>
void with_scalar(ring_attention_scalar scalar, const Visit& visit) {
  switch (scalar) {
    case RING_ATTENTION_FLOAT32:
      return visit(float());
    case RING_ATTENTION_FLOAT64:
      return visit(double());
    case RING_ATTENTION_FLOAT16:
      return visit(Eigen::half());
    case RING_ATTENTION_BFLOAT16:
      return visit(Eigen::bfloat16());
  }
  throw std::invalid_argument("scalar = " + std::to_string(static_cast<int>(scalar)) +
                              ": must lie in [0, 3]");
}

}  // namespace c_interface
