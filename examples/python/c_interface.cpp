// The interface in C: calls on the CPU.
#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ring_attention/ring_attention.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

#include "c_arguments.hpp"
#include "ring_attention_c.h"

#define TEXT_OF(X) #X
#define VERSION_TEXT(MAJOR, MINOR, PATCH) TEXT_OF(MAJOR) "." TEXT_OF(MINOR) "." TEXT_OF(PATCH)

namespace ra = ring_attention;

namespace {

ra::AttentionConfig preset_of(std::string_view name) {
  if (name == "ring") return ra::ring_preset();
  if (name == "longnet") return ra::longnet_preset();
  if (name == "torchscale") return ra::torchscale_preset();
  throw std::invalid_argument("name = \"" + std::string(name) +
                              "\": must be \"ring\", \"longnet\" or \"torchscale\"");
}

}  // namespace

int32_t ring_attention_c_version() { return RING_ATTENTION_C_VERSION; }

const char* ring_attention_library_version() {
  return VERSION_TEXT(RING_ATTENTION_VERSION_MAJOR, RING_ATTENTION_VERSION_MINOR,
                      RING_ATTENTION_VERSION_PATCH);
}

const char* ring_attention_last_error() { return c_interface::last_error; }

ring_attention_status ring_attention_preset(const char* name, ring_attention_config* config) {
  return c_interface::guarded([&] {
    const ra::AttentionConfig preset = preset_of(&c_interface::required(name, "name"));
    const std::size_t size = c_interface::required(config, "config").size;
    c_interface::check_size(*config);
    ring_attention_config fields{};
    fields.size = size;
    fields.ring_size = preset.ring_size;
    fields.head_partition = static_cast<std::int32_t>(preset.head_partition);
    fields.offset_rule = static_cast<std::int32_t>(preset.offset_rule);
    fields.query_rule = static_cast<std::int32_t>(preset.query_rule);
    fields.padding_rule = static_cast<std::int32_t>(preset.padding_rule);
    fields.mix_gradient = static_cast<std::int32_t>(preset.mix_gradient);
    std::memset(static_cast<void*>(config), 0, size);
    std::memcpy(config, &fields, size < sizeof fields ? size : sizeof fields);
  });
}

ring_attention_status ring_attention_forward(const ring_attention_config* config,
                                             ring_attention_scalar scalar, const ring_attention_tensor* q,
                                             const ring_attention_tensor* k, const ring_attention_tensor* v,
                                             const ring_attention_tensor* out,
                                             const ring_attention_tensor* lse, ring_attention_lengths lengths,
                                             int32_t threads) {
  return c_interface::guarded([&] {
    c_interface::with_scalar(scalar, [&](auto number) {
      using Scalar = decltype(number);
      using Input = ra::TensorView<const Scalar>;
      using Output = ra::TensorView<Scalar>;
      const ra::RingDilatedAttentionV2<Scalar> attention(c_interface::config_of(config));
      const ra::Context context{.threads = threads};
      const ra::ForwardOptions options{.lengths = c_interface::lengths_of(lengths)};
      const auto query = c_interface::view_of<Input>(q, "q"), key = c_interface::view_of<Input>(k, "k");
      const auto value = c_interface::view_of<Input>(v, "v");
      const auto result = c_interface::view_of<Output>(out, "out");
      if (lse == nullptr) {
        attention.forward(context, query, key, value, result, options);
      } else {
        using Lse = ra::TensorView<ra::accumulator_t<Scalar>>;
        attention.forward(context, query, key, value, result, c_interface::view_of<Lse>(lse, "lse"), options);
      }
    });
  });
}

ring_attention_status ring_attention_backward(
    const ring_attention_config* config, ring_attention_scalar scalar, const ring_attention_tensor* q,
    const ring_attention_tensor* k, const ring_attention_tensor* v, const ring_attention_tensor* out,
    const ring_attention_tensor* lse, const ring_attention_tensor* grad_out,
    const ring_attention_tensor* grad_lse, const ring_attention_tensor* grad_q,
    const ring_attention_tensor* grad_k, const ring_attention_tensor* grad_v, ring_attention_lengths lengths,
    int32_t threads) {
  return c_interface::guarded([&] {
    c_interface::with_scalar(scalar, [&](auto number) {
      using Scalar = decltype(number);
      using Input = ra::TensorView<const Scalar>;
      using Output = ra::TensorView<Scalar>;
      using Lse = ra::TensorView<const ra::accumulator_t<Scalar>>;
      const ra::RingDilatedAttentionV2<Scalar> attention(c_interface::config_of(config));
      ra::BackwardOptions options{.lengths = c_interface::lengths_of(lengths)};
      if (grad_lse != nullptr) options.grad_lse = c_interface::view_of<Lse>(grad_lse, "grad_lse");
      attention.backward(ra::Context{.threads = threads}, c_interface::view_of<Input>(q, "q"),
                         c_interface::view_of<Input>(k, "k"), c_interface::view_of<Input>(v, "v"),
                         c_interface::view_of<Input>(out, "out"), c_interface::view_of<Lse>(lse, "lse"),
                         c_interface::view_of<Input>(grad_out, "grad_out"),
                         ra::GradientViews<Scalar>{c_interface::view_of<Output>(grad_q, "grad_q"),
                                                   c_interface::view_of<Output>(grad_k, "grad_k"),
                                                   c_interface::view_of<Output>(grad_v, "grad_v")},
                         options);
    });
  });
}
