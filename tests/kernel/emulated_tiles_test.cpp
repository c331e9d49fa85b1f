// suites: instructions
// The kernel for AMX with tile registers that are emulated, through the checks of every other kernel. What it
// has beside them needs AVX512-BF16.
#include "support/emulated_tiles.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <ring_attention/attention/block_sparse_ring_dilated_attention.hpp>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <ring_attention/attention/true_ring_dilated_attention.hpp>
#include <ring_attention/config.hpp>
#include <ring_attention/kernel/dispatch.hpp>
#include <ring_attention/kernel/instruction_sets.hpp>
#include <string>
#include <utility>
#include <vector>

#include "support/block_case.hpp"
#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/compare.hpp"
#include "support/effort.hpp"
#include "support/in_context.hpp"
#include "support/kernel_checks.hpp"
#include "support/random.hpp"
#include "support/random_case.hpp"
#include "support/tensors.hpp"

#if RING_ATTENTION_X86_TARGETS

namespace {

namespace ra = ring_attention;
using Scalar = Eigen::bfloat16;

const ra::engine::ForwardKernel<Scalar>& emulated_kernel() {
  return ra::engine::avx512_bf16::tile_kernel<test::EmulatedTiles>;
}

ra::Context emulated() { return test::with_kernel(ra::KernelChoice(emulated_kernel())); }

test::InContext<ra::RingDilatedAttentionV2<Scalar>> make_emulated(const ra::AttentionConfig& config) {
  return {emulated(), ra::RingDilatedAttentionV2<Scalar>(config)};
}

bool cannot_run() {
  if (ra::engine::avx512_bf16_isa::supported()) return false;
  WARN("no AVX512-BF16 here: skipped");
  return true;
}

/// Fails a test whose kernel misused the tile registers.
struct FaultCheck {
  FaultCheck() { (void)test::EmulatedTiles::take_fault(); }
  FaultCheck(const FaultCheck&) = delete;
  FaultCheck& operator=(const FaultCheck&) = delete;
  ~FaultCheck() {
    const char* const fault = test::EmulatedTiles::take_fault();
    CHECK(std::string(fault == nullptr ? "" : fault).empty());
    CHECK_FALSE(test::EmulatedTiles::configured());
  }
};

}  // namespace

TEST_CASE("the emulated tile kernel agrees with the oracle at every head dimension", "[kernel][tiles]") {
  if (cannot_run()) return;
  const FaultCheck faults;
  const std::uint64_t before = test::EmulatedTiles::multiplies();
  const std::vector makers{std::pair(std::string("emulated"), &make_emulated)};
  for (std::int64_t head_dim = 1; head_dim <= 256; head_dim += test::every_case()) {
    test::check_head_dimension<Scalar>(head_dim, makers);
  }
  test::check_head_dimension<Scalar>(300, makers);
  CHECK(test::EmulatedTiles::multiplies() > before);
}

TEST_CASE("the emulated tile kernel agrees with the oracle for random configurations and classes",
          "[kernel][tiles][property]") {
  if (cannot_run()) return;
  const FaultCheck faults;
  for (std::uint64_t seed = 50000; seed < 50000 + 2 * test::rule_combinations; ++seed) {
    const test::RandomCase c = test::make_random_case(seed, 2e6);
    if (seed % 3 == 0) {
      test::check_both<Scalar>(c, test::in_contexts<ra::TrueRingDilatedAttention<Scalar>>({emulated()}));
    } else {
      test::check_both<Scalar>(c, test::in_contexts<ra::RingDilatedAttentionV2<Scalar>>({emulated()}));
    }
    if (seed % 2 != 0) continue;
    const test::BlockCase block = test::make_block_case(seed);
    INFO(block.describe());
    const std::string of_blocks = test::check_block_forward<Scalar>(
        block, test::InContext(emulated(),
                               ra::BlockSparseRingDilatedAttention<Scalar>(block.call.config, block.sparse)));
    INFO(of_blocks);
    CHECK(of_blocks.empty());
  }
}

TEST_CASE("the emulated tile kernel agrees with the oracle for scales of either sign, small and 0",
          "[kernel][tiles]") {
  if (cannot_run()) return;
  const FaultCheck faults;
  test::check_scales<Scalar>(make_emulated);
}

TEST_CASE("the emulated tile kernel keeps NaN, infinities and huge scores where they belong",
          "[kernel][tiles]") {
  if (cannot_run()) return;
  const FaultCheck faults;
  test::check_not_a_number<Scalar>(make_emulated);
}

TEST_CASE("the emulated tile kernel keeps the tolerance where values are large", "[kernel][tiles]") {
  if (cannot_run()) return;
  const FaultCheck faults;
  test::check_large_numbers<Scalar>(make_emulated);
}

namespace {

/// Queries in lanes of one tile and the runs of keys they meet, each array in memory of exactly its size.
class OneTile {
 public:
  OneTile(int vectors, std::int64_t head_dim, double scale, double query_size, test::Random& random)
      : dim_(head_dim),
        width_(vectors * kernel_.tile.lanes),
        scale_(scale),
        random_(random),
        query_(bytes(kernel_.query_bytes(width_, dim_))),
        output_(count(kernel_.tile.padded(dim_) * width_)),
        maximum_(count(width_)),
        sum_(count(width_)),
        scratch_(count(kernel_.scratch)),
        row_output_(count(width_ * kernel_.tile.padded(dim_))),
        row_maximum_(count(width_), -std::numeric_limits<float>::infinity()),
        row_sum_(count(width_)) {
    tile_ = {query_.data(), output_.data(), maximum_.data(), sum_.data(), vectors};
    queries_ = rows(width_, query_size);
    std::vector<const Scalar*> at;
    std::vector<std::int64_t> row;
    for (std::int64_t q = 0; q < width_; ++q) {
      at.push_back(queries_.data() + q * dim_);
      row.push_back(q);
    }
    kernel_.load_queries(at.data(), dim_, tile_, static_cast<float>(scale * std::numbers::log2e));
    kernel_.load_states({row_output_.data(), row_maximum_.data(), row_sum_.data()}, row.data(), dim_, tile_);
    scores_.resize(count(width_));
    seen_.resize(count(width_));
  }

  /// `masked`: each query sees some number of the keys.
  void attend(std::int64_t keys, double key_size, double value_size, bool masked) {
    const std::int64_t capacity = keys + random_.integer(0, 40);
    std::vector<std::byte> packed_keys(bytes(kernel_.key_bytes(capacity, dim_)));
    std::vector<std::byte> packed_values(bytes(kernel_.value_bytes(capacity, dim_)));
    const std::vector<Scalar> k = rows(keys, key_size), v = rows(keys, value_size);
    kernel_.pack_keys({k.data(), dim_}, keys, dim_, packed_keys.data());
    kernel_.pack_values({v.data(), dim_}, keys, dim_, capacity, packed_values.data());
    std::vector<std::int64_t> met(count(width_), keys), tokens(count(width_)), heads(count(width_));
    const ra::Progression run{random_.integer(0, 100), random_.integer(1, 5), keys};
    for (std::size_t q = 0; q < met.size(); ++q) {
      if (masked) met[q] = random_.chance(0.2) ? 0 : random_.integer(0, keys);
      tokens[q] = met[q] == 0 ? run.first - 1 : run[met[q] - 1] + random_.integer(0, run.stride - 1);
    }
    kernel_.attend({packed_keys.data(), packed_values.data(), capacity}, tile_,
                   {tokens.data(), heads.data(), run, masked}, dim_,
                   static_cast<float>(scale_ * std::numbers::log2e), scratch_.data());
    for (std::int64_t q = 0; q < width_; ++q) {
      for (std::int64_t i = 0; i < met[count(q)]; ++i) {
        double score = 0;
        for (std::int64_t d = 0; d < dim_; ++d) score += scale_ * number(queries_, q, d) * number(k, i, d);
        scores_[count(q)].push_back(score);
        for (std::int64_t d = 0; d < dim_; ++d) seen_[count(q)].push_back(number(v, i, d));
      }
    }
  }

  /// Empty where the states are right.
  std::string check() {
    std::vector<std::int64_t> row;
    for (std::int64_t q = 0; q < width_; ++q) row.push_back(q);
    kernel_.store_states(tile_, row.data(), dim_, {row_output_.data(), row_maximum_.data(), row_sum_.data()});
    double factor = 1;
    for (const auto& scores : scores_) {
      for (const double score : scores) factor = std::max(factor, std::abs(score) / 100);
    }
    test::Comparison lse("lse", factor * test::tolerance_of<Scalar>().lse),
        out("error over what is allowed", 1);
    for (std::int64_t q = 0; q < width_; ++q) {
      const std::vector<double>& scores = scores_[count(q)];
      const double m = scores.empty() ? 0 : *std::ranges::max_element(scores);
      double sum = 0;
      for (const double score : scores) sum += std::exp(score - m);
      lse.add(std::numbers::ln2 * (row_maximum_[count(q)] + std::log2(double{row_sum_[count(q)]})),
              m + std::log(sum), {0, 0, q, 0});
      for (std::int64_t d = 0; d < dim_ && !scores.empty(); ++d) {
        double expected = 0, size = 0;
        for (std::size_t i = 0; i < scores.size(); ++i) {
          const double term = std::exp(scores[i] - m) / sum * seen_[count(q)][i * count(dim_) + count(d)];
          expected += term;
          size += std::abs(term);
        }
        const double rounding = std::ldexp(size, -8) + 2e-4 * std::max(1.0, size);
        const double actual =
            double{row_output_[count(q * kernel_.tile.padded(dim_) + d)]} / row_sum_[count(q)];
        out.add((actual - expected) / (factor * rounding), 0.0, {0, 0, q, d});
      }
    }
    return (lse.passed() ? "" : lse.message()) + (out.passed() ? "" : out.message());
  }

 private:
  static std::size_t count(std::int64_t n) { return static_cast<std::size_t>(n); }
  static std::size_t bytes(std::int64_t n) { return static_cast<std::size_t>(n); }
  double number(const std::vector<Scalar>& of, std::int64_t row, std::int64_t d) const {
    return static_cast<double>(static_cast<float>(of[count(row * dim_ + d)]));
  }
  std::vector<Scalar> rows(std::int64_t n, double size) {
    std::vector<Scalar> numbers(count(n * dim_));
    for (Scalar& number : numbers) number = Scalar(static_cast<float>(size * random_.normal()));
    return numbers;
  }

  const ra::engine::ForwardKernel<Scalar>& kernel_ = emulated_kernel();
  std::int64_t dim_, width_;
  double scale_;
  test::Random& random_;
  std::vector<std::byte> query_;
  std::vector<float> output_, maximum_, sum_, scratch_, row_output_, row_maximum_, row_sum_;
  ra::engine::QueryTile<float> tile_{};
  std::vector<Scalar> queries_;
  std::vector<std::vector<double>> scores_, seen_;  // of each query; values in rows
};

}  // namespace

TEST_CASE("the emulated tile kernel merges runs of any kind, and stays within its memory",
          "[kernel][tiles]") {
  if (cannot_run()) return;
  const FaultCheck faults;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    test::Random random(seed);
    const std::int64_t head_dim = random.integer(1, 140);
    const double scale = random.pick({1.0, -1.0, 0.3}) / std::sqrt(static_cast<double>(head_dim));
    OneTile tile(static_cast<int>(random.integer(1, 2)), head_dim, scale, random.pick({0.1, 1.0, 20.0}),
                 random);
    std::string runs;
    for (std::int64_t run = random.integer(1, 5); run > 0; --run) {
      // Scores and values that a maximum is not needed for, and others.
      const std::int64_t keys = random.integer(1, random.pick({2, 2, 70, 400}));
      const double key_size = random.pick({0.0, 1.0, 1.0, 40.0});
      const double value_size = random.pick({0.1, 1.0, 50.0, 1e10});
      const bool masked = random.chance(0.5);
      runs += std::to_string(keys) + " keys of " + std::to_string(key_size) + ", values of " +
              std::to_string(value_size) + (masked ? ", masked; " : "; ");
      tile.attend(keys, key_size, value_size, masked);
    }
    INFO("seed " << seed << ", head dimension " << head_dim << ": " << runs);
    const std::string failure = tile.check();
    INFO(failure);
    CHECK(failure.empty());
  }
}

TEST_CASE("the emulated tile kernel gives the same bits again and on any number of threads",
          "[kernel][tiles]") {
  if (cannot_run()) return;
  const FaultCheck faults;
  const auto in = test::random_inputs<Scalar>({2, 301, 4, 24}, 2);
  for (const bool causal : {false, true}) {
    ra::AttentionConfig config;
    config.segment_lengths = {50, 301};
    config.dilation_rates = {1, 3};
    config.causal = causal;
    const auto run = [&](int threads) {
      const test::ThreadScope scope(threads);
      return make_emulated(config).forward_with_lse(in.q, in.k, in.v);
    };
    const auto first = run(1);
    for (const int threads : {1, 4, 7}) {
      const auto again = run(threads);
      CHECK(test::bitwise_equal(again.out, first.out));
      CHECK(test::bitwise_equal(again.lse, first.lse));
    }
  }
}

TEST_CASE("the emulated tile kernel bears the largest values", "[kernel][tiles]") {
  if (cannot_run()) return;
  const FaultCheck faults;
  ra::AttentionConfig config;
  config.segment_lengths = {40};
  config.dilation_rates = {1};
  auto in = test::random_inputs<Scalar>({1, 40, 1, 64}, 1);
  for (std::int64_t i = 0; i < in.v.size(); ++i) in.v.data()[i] = Scalar(1e36F);
  // Large scores that the bound on them still allows.
  for (std::int64_t i = 0; i < in.q.size(); ++i) in.q.data()[i] = in.k.data()[i] = Scalar(2.0F);
  const auto result = make_emulated(config).forward_with_lse(in.q, in.k, in.v);
  for (std::int64_t i = 0; i < result.out.size(); ++i) {
    CHECK(static_cast<float>(result.out.data()[i]) == Approx(1e36F).epsilon(0.01));
  }
}

#endif
