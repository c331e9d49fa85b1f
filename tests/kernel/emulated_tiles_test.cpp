// The kernel for AMX with tile registers that are emulated, through the checks of every other kernel. What it
// has beside them needs AVX512-BF16.
#include "support/emulated_tiles.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <ring_attention/config.hpp>
#include <ring_attention/kernel/dispatch.hpp>
#include <ring_attention/kernel/instruction_sets.hpp>
#include <string>
#include <vector>

#include "support/block_case.hpp"
#include "support/catch.hpp"
#include "support/check_forward.hpp"
#include "support/kernel_attention.hpp"
#include "support/kernel_checks.hpp"
#include "support/random_case.hpp"
#include "support/tensors.hpp"

#if RING_ATTENTION_X86_TARGETS

namespace {

namespace ra = ring_attention;
using Scalar = Eigen::bfloat16;

const ra::engine::TileKernel<Scalar>& emulated() {
  return ra::engine::avx512_bf16::tile_kernel<test::EmulatedTiles>;
}

test::KernelAttention<Scalar> make_emulated(const ra::AttentionConfig& config) {
  return {config, emulated()};
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
  for (std::int64_t head_dim = 1; head_dim <= 256; ++head_dim) {
    test::check_head_dimension<Scalar>(head_dim, make_emulated);
  }
  test::check_head_dimension<Scalar>(300, make_emulated);
  CHECK(test::EmulatedTiles::multiplies() > before);
}

TEST_CASE("the emulated tile kernel agrees with the oracle for random configurations and classes",
          "[kernel][tiles][property]") {
  if (cannot_run()) return;
  const FaultCheck faults;
  for (std::uint64_t seed = 50000; seed < 50000 + 2 * test::rule_combinations; ++seed) {
    const test::RandomCase c = test::make_random_case(seed, 2e6);
    INFO(c.describe());
    const std::string failure =
        test::check_both<Scalar>(c, test::KernelAttention<Scalar>(c.config, emulated(), seed % 3 == 0));
    INFO(failure);
    CHECK(failure.empty());
    if (seed % 2 != 0) continue;
    const test::BlockCase block = test::make_block_case(seed);
    INFO(block.describe());
    const std::string of_blocks = test::check_block_forward<Scalar>(
        block, test::KernelBlockAttention<Scalar>(block.call.config, block.sparse, emulated()));
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

#endif
