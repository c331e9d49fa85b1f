// A program for compilers and processors on which the other tests do not run: forward and backward of every
// scalar, with every kernel that the processor has, against the oracle.
#include <cstdio>
#include <nlohmann/json.hpp>
#include <ring_attention/json.hpp>
#include <ring_attention/ring_attention.hpp>
#include <string>
#include <vector>

#include "support/compare.hpp"
#include "support/oracle.hpp"
#include "support/oracle_adapter.hpp"
#include "support/oracle_backward.hpp"
#include "support/tensors.hpp"

namespace ra = ring_attention;

namespace {

template <class T>
bool same(const std::string& name, const ra::Tensor<T>& found, const std::vector<double>& expected,
          double tolerance, double size = 0) {
  const test::Comparison comparison = test::compare_all(
      name, test::to_float64(ra::TensorView<const T>(found.view())), expected, tolerance, size);
  if (comparison.passed() && comparison.count() == found.size()) return true;
  std::printf("%s\n", comparison.message().c_str());
  return false;
}

template <class Scalar>
bool check(const std::string& name) {
  ra::AttentionConfig config = ra::longnet_preset();
  config.segment_lengths = {16, 40};
  config.dilation_rates = {1, 3};
  config.ring_size = 2;
  config.causal = true;
  const ra::Shape shape{1, 40, 4, 20};
  const auto inputs = test::random_inputs<Scalar>(shape, 2);
  const auto grad_out = test::random_tensor<Scalar>(shape, 9);
  const ra::RingDilatedAttentionV2<Scalar> attention(config);
  const auto result = attention.forward_with_lse(inputs.q, inputs.k, inputs.v);
  const auto grads = attention.backward(inputs.q, inputs.k, inputs.v, result, grad_out);

  const auto float64 = [](const auto& tensor) { return test::to_float64(tensor.view()); };
  const auto problem = test::to_problem(config, shape, inputs.k.shape());
  const auto values = test::to_inputs<Scalar>(inputs.q.view(), inputs.k.view(), inputs.v.view());
  const auto expected = oracle::forward(problem, values);
  const auto expected_grads = oracle::backward(problem, values, float64(grad_out), {}, float64(result.out));
  const auto tolerance = test::tolerance_of<Scalar>();
  bool good = same(name + " out", result.out, expected.out, tolerance.out);
  good = same(name + " lse", result.lse, expected.lse, tolerance.lse) && good;
  const auto same_grad = [&](const char* which, const auto& found, const std::vector<double>& reference) {
    return same(name + which, found, reference, tolerance.gradient, test::gradient_size<Scalar>(reference));
  };
  good = same_grad(" grad q", grads.q, expected_grads.q) && good;
  good = same_grad(" grad k", grads.k, expected_grads.k) && good;
  good = same_grad(" grad v", grads.v, expected_grads.v) && good;
  return good;
}

}  // namespace

int main() {
  bool good = true;
  for (const std::string& kernel : ra::available_kernels()) {
    ra::set_kernel(kernel);
    good = check<float>(kernel + " float") && good;
    good = check<double>(kernel + " double") && good;
    good = check<Eigen::half>(kernel + " half") && good;
    good = check<Eigen::bfloat16>(kernel + " bfloat16") && good;
  }
  const nlohmann::json stats = ra::get_global_pattern_cache().stats();
  if (stats.at("entries") != ra::get_global_pattern_cache().stats().entries || stats.at("hits") == 0) {
    std::printf("pattern cache: %s\n", stats.dump().c_str());
    good = false;
  }
  if (good) std::printf("four scalars agree with the oracle\n");
  return good ? 0 : 1;
}
