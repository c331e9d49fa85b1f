// An attention class whose every call runs in one context, for checks that take any class.
#pragma once

#include <ring_attention/config.hpp>
#include <ring_attention/context.hpp>
#include <utility>
#include <vector>

namespace test {

template <class Attention>
class InContext {
 public:
  InContext(ring_attention::Context context, Attention attention)
      : context_(std::move(context)), attention_(std::move(attention)) {}

  template <class... Arguments>
  auto forward(const Arguments&... arguments) const {
    return attention_.forward(context_, arguments...);
  }
  template <class... Arguments>
  auto forward_with_lse(const Arguments&... arguments) const {
    return attention_.forward_with_lse(context_, arguments...);
  }
  template <class... Arguments>
  auto backward(const Arguments&... arguments) const {
    return attention_.backward(context_, arguments...);
  }

 private:
  ring_attention::Context context_;
  Attention attention_;
};

/// What a kernel or any other choice computes with.
inline ring_attention::Context with_kernel(ring_attention::KernelChoice kernel) {
  return {.threads = 0, .kernel = std::move(kernel)};
}

/// A maker of attention objects in each of these contexts, by its kernel's name.
template <class Attention>
auto in_contexts(const std::vector<ring_attention::Context>& contexts) {
  const auto maker = [](const ring_attention::Context& context) {
    return std::pair(context.kernel.name(), [context](const ring_attention::AttentionConfig& config) {
      return InContext<Attention>(context, Attention(config));
    });
  };
  std::vector<decltype(maker(contexts.front()))> makers;
  for (const ring_attention::Context& context : contexts) makers.push_back(maker(context));
  return makers;
}

}  // namespace test
