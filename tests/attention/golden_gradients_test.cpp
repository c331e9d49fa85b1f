// suites: instructions
// unit: values
// Gradients of every class against the reference gradients in tests/data, at several ring sizes.
#include <cstdint>
#include <ring_attention/attention/ring_dilated_attention_production.hpp>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <ring_attention/attention/true_ring_dilated_attention.hpp>
#include <string>
#include <utility>

#include "support/catch.hpp"
#include "support/compare.hpp"
#include "support/distributed.hpp"
#include "support/golden.hpp"
#include "support/oracle_adapter.hpp"
#include "support/oracle_backward.hpp"
#include "support/tensors.hpp"

namespace {

namespace ra = ring_attention;

template <class Scalar, class Attention>
void check_gradients(const char* name, const Attention& attention, const test::Golden& golden,
                     const oracle::Gradients& exact) {
  const test::CallInputs<Scalar> in{test::convert<Scalar>(golden["q"]), test::convert<Scalar>(golden["k"]),
                                    test::convert<Scalar>(golden["v"])};
  const auto grad_out = test::convert<Scalar>(golden["grad_out"]);
  const auto result = attention.forward_with_lse(in.q, in.k, in.v);
  const ra::Gradients<Scalar> grads = attention.backward(in.q, in.k, in.v, result, grad_out);
  const auto compare = [&](const char* which, const ra::Tensor<Scalar>& actual,
                           const std::vector<double>& oracle_grad, const char* reference) {
    // The references themselves are sums in float.
    const auto near = test::compare_all(which, test::to_float64(actual.view()),
                                        test::to_float64(golden[reference].view()), 1e-4);
    const auto nearer = test::compare_all(which, test::to_float64(actual.view()), oracle_grad,
                                          test::tolerance_of<Scalar>().gradient);
    INFO(name << ": " << near.message() << '\n' << nearer.message());
    CHECK(near.passed());
    CHECK(nearer.passed());
  };
  compare("grad_q", grads.q, exact.q, "grad_q");
  compare("grad_k", grads.k, exact.k, "grad_k");
  compare("grad_v", grads.v, exact.v, "grad_v");
}

}  // namespace

TEMPLATE_TEST_CASE("every class gives the reference gradients at every ring size", "[attention][golden]",
                   float, double) {
  for (const std::string& name : test::golden_names()) {
    const test::Golden golden = test::load_golden(name);
    const auto problem = test::to_problem(golden.config, golden["q"].shape(), golden["k"].shape());
    const auto exact =
        oracle::backward(problem, test::to_inputs(golden["q"].view(), golden["k"].view(), golden["v"].view()),
                         test::to_float64(golden["grad_out"].view()));
    for (const std::int64_t ring_size : {1, 2, 3, 4, 7}) {
      ra::AttentionConfig config = golden.config;
      config.ring_size = ring_size;
      config.shard_layout = ring_size % 2 == 1 ? ra::ShardLayout::zigzag : ra::ShardLayout::contiguous;
      INFO(name << ", ring size " << ring_size);
      check_gradients<TestType>("V2", ra::RingDilatedAttentionV2<TestType>(config), golden, exact);
      check_gradients<TestType>("Production", ra::RingDilatedAttentionProduction<TestType>(config), golden,
                                exact);
      check_gradients<TestType>("TrueRing", ra::TrueRingDilatedAttention<TestType>(config), golden, exact);
      check_gradients<TestType>("Distributed", test::DistributedOnThreads<TestType>(config), golden, exact);
    }
  }
}
