// One attention problem on demand, for the compare_*.py: one timed call for each line of standard input.
// `--help` describes the protocol.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <ring_attention/ring_attention.hpp>
#include <string>
#include <type_traits>

#include "../examples/support/ring_shard.hpp"
#include "../examples/support/safetensors.hpp"
#include "support/measuring.hpp"
#include "support/problems.hpp"
#include "support/program.hpp"
#include "support/results.hpp"

namespace {

using namespace benchmarks;

constexpr const char* help_text =
    R"(attention_for_comparison: one attention problem, called on demand

usage: attention_for_comparison --tokens N --segments W,W,... --rates R,R,... [options]
       attention_for_comparison --about

Makes q, k and v of random numbers and calls forward, with --backward also backward. It prints one line of JSON: kernel,
flops of a call, seconds of the first call, resident memory before there were tensors and its peak, machine, build. From
then on every line of standard input that holds a number of threads makes one call with that many, and is answered by a
line with its seconds and the peak memory so far. It ends with its input.

  --preset NAME    ring (default), longnet or torchscale
  --heads N        default 4
  --head-dim N     default 64
  --scalar NAME    float (default) or bfloat16
  --causal         keys after a query are hidden from it
  --seed N         other random numbers (default 0), normally distributed: for accuracy, not for time
  --backward       calls are of backward
  --kernel NAME    one of the kernels of this processor (default: the best)
  --output FILE    write the inputs, out and lse (with --backward: grad_out, dq, dk and dv, too) to a safetensors file;
                   otherwise some rows of out are compared with a float64 evaluation
  --about          print machine, build, commit and kernels as JSON and end
  --help
)";

template <class T>
void add(safetensors::Writer& writer, const std::string& name, const ra::Tensor<T>& tensor) {
  writer.add(name, {tensor.shape().begin(), tensor.shape().end()}, tensor.data());
}

/// The largest error of three rows, in units of the scalar's tolerance; infinite for NaN.
template <class Scalar>
double worst_of_sampled_rows(const ra::AttentionConfig& config, const ra::Tensor<Scalar>& out) {
  const auto [batch, n, heads, dim] = out.shape();
  const examples::TokenRanges rows{{0, 1}, {n / 3, n / 3 + 1}, {n - 1, n}};
  ra::Tensor<float> sampled(1, 3, heads, dim);
  float* next = sampled.data();
  for (const auto& [begin, end] : rows) {
    for (std::int64_t i = begin * heads * dim; i < end * heads * dim; ++i)
      *next++ = static_cast<float>(out.data()[i]);
  }
  const double in_float =
      examples::check_rows(sampled, rows, examples::DirectRow(config, n, heads, dim), 3).worst;
  return std::is_same_v<Scalar, float> ? in_float : in_float * (2e-5 / 2.5e-2);
}

template <class Scalar>
void serve(const command_line::Arguments& arguments, const ra::AttentionConfig& config,
           nlohmann::json ready) {
  if (!arguments.has("--tokens")) throw command_line::Error("--tokens is needed");
  const std::int64_t tokens = *arguments.positive<std::int64_t>("--tokens");
  const std::int64_t heads = arguments.positive<std::int64_t>("--heads").value_or(4);
  const std::int64_t dim = arguments.positive<std::int64_t>("--head-dim").value_or(64);
  const auto direction = arguments.has("--backward") ? Direction::backward : Direction::forward;
  const bool backward = direction == Direction::backward;
  ready["bytes_before"] = peak_resident_bytes().value_or(0);
  std::normal_distribution<float> normal;
  std::mt19937_64 engine(arguments.number<std::uint64_t>("--seed").value_or(0));
  const auto numbers = [&](std::uint64_t operand) {
    if (!arguments.has("--seed"))
      return random_numbers<Scalar>(tokens, heads, dim, examples::Operand{operand});
    ra::Tensor<Scalar> drawn(1, tokens, heads, dim);
    std::generate_n(drawn.data(), drawn.size(), [&] { return static_cast<Scalar>(normal(engine)); });
    return drawn;
  };
  const ra::Tensor<Scalar> q = numbers(1), k = numbers(2), v = numbers(3);
  const ra::RingDilatedAttentionV2<Scalar> attention(config);
  ra::AttentionResult<Scalar> result{ra::Tensor<Scalar>(q.shape()), {}};
  ra::Tensor<Scalar> grad_out;
  ra::Gradients<Scalar> gradients;
  if (backward || arguments.has("--output")) result = attention.forward_with_lse(q, k, v);
  if (backward) grad_out = numbers(4);
  const auto call = [&] {
    if (backward) {
      gradients = attention.backward(q, k, v, result, grad_out);
    } else {
      attention.forward(q, k, v, result.out);
    }
  };

  ready["first_seconds"] = seconds_of(call);
  ready["peak_bytes"] = peak_resident_bytes().value_or(0);
  ready["tensor_bytes"] = 4 * q.size() * static_cast<std::int64_t>(sizeof(Scalar));
  ready["flops"] = count_flops(count_pairs(config, tokens, heads), dim, direction);
  if (arguments.has("--output")) {
    safetensors::Writer writer;
    for (const auto& [name, tensor] : {std::pair("q", &q), {"k", &k}, {"v", &v}}) add(writer, name, *tensor);
    add(writer, "out", result.out);
    add(writer, "lse", result.lse);
    if (backward) {
      add(writer, "grad_out", grad_out);
      add(writer, "dq", gradients.q);
      add(writer, "dk", gradients.k);
      add(writer, "dv", gradients.v);
    }
    writer.save(arguments.text("--output"));
  } else {
    ready["worst_error_in_tolerances"] = worst_of_sampled_rows(config, result.out);
  }
  std::cout << ready.dump() << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    ra::set_num_threads(command_line::parse_number<int>("threads", line));
    const double seconds = seconds_of(call);
    const nlohmann::json answer{{"seconds", seconds}, {"peak_bytes", peak_resident_bytes().value_or(0)}};
    std::cout << answer.dump() << std::endl;
  }
}

int run(const command_line::Arguments& arguments) {
  nlohmann::json ready = describe_run();
  if (arguments.has("--about")) {
    std::printf("%s\n", ready.dump().c_str());
    return 0;
  }
  ra::AttentionConfig config = ra::ring_preset();
  arguments.choose<ra::AttentionConfig>("--preset",
                                        {{"ring", ra::ring_preset()},
                                         {"longnet", ra::longnet_preset()},
                                         {"torchscale", ra::torchscale_preset()}},
                                        config);
  config.segment_lengths = arguments.list("--segments");
  config.dilation_rates = arguments.list("--rates");
  config.causal = arguments.has("--causal");
  ready["kernel"] = arguments.has("--kernel") ? arguments.text("--kernel") : ra::available_kernels().front();
  ra::set_kernel(ready["kernel"].get<std::string>());
  bool bfloat16 = false;
  arguments.choose<bool>("--scalar", {{"float", false}, {"bfloat16", true}}, bfloat16);
  bfloat16 ? serve<Eigen::bfloat16>(arguments, config, ready) : serve<float>(arguments, config, ready);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return run_program("attention_for_comparison", help_text, argc, argv,
                     {"--tokens", "--preset", "--segments", "--rates", "--heads", "--head-dim", "--scalar",
                      "--kernel", "--output", "--seed"},
                     {"--backward", "--causal", "--about"}, run);
}
