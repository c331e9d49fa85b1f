// Every public header, and every class template with forward and backward in a scalar or in all of them.
// Included by the units that are compiled with other flags and beside other programs' macros.
#include <ring_attention/json.hpp>
#include <ring_attention/ring_attention.hpp>
#if !defined(RING_ATTENTION_CHECK_WITHOUT_MPI)
#include <ring_attention/mpi.hpp>
#endif

namespace every_class {

namespace ra = ring_attention;

/// Instantiates what is called, and nothing is called when it is only compiled.
template <class Scalar>
void call(const ra::AttentionConfig& config) {
  const ra::Tensor<Scalar> x(1, 8, 2, 4);
  const auto both = [&x](const auto& attention) {
    const auto result = attention.forward_with_lse(x, x, x);
    (void)attention.backward(x, x, x, result, x);
  };
  both(ra::RingDilatedAttentionV2<Scalar>(config));
  both(ra::RingDilatedAttentionV2<Scalar, ra::use_local_cache>(config));
  both(ra::RingDilatedAttentionProduction<Scalar, ra::use_no_cache>(config));
  both(ra::TrueRingDilatedAttention<Scalar>(config));
  const ra::BlockSparseConfig blocks;
  both(ra::BlockSparseRingDilatedAttention<Scalar>(config, blocks));
  const auto over = [&](auto& communicator) {
    using Communicator = std::remove_cvref_t<decltype(communicator)>;
    const auto shards = [&x](const auto& attention) {
      const auto result = attention.forward_with_lse(x, x, x, 8);
      (void)attention.backward(x, x, x, result, x, 8);
      (void)attention.plan_report(8);
    };
    shards(ra::RingDistributedDilatedAttention<Scalar, Communicator>(config, communicator));
    shards(
        ra::BlockSparseRingDistributedDilatedAttention<Scalar, Communicator>(config, blocks, communicator));
  };
  ra::ThreadRing ring(1);
  ra::ThreadCommunicator member(ring, 0);
  over(member);
#if !defined(RING_ATTENTION_CHECK_WITHOUT_MPI)
  ra::MpiCommunicator ranks(MPI_COMM_WORLD);
  over(ranks);
#endif
}

inline nlohmann::json numbers(const ra::RingDilatedAttentionProduction<float>& service) {
  return {service.counters(), ra::get_global_pattern_cache().stats()};
}

}  // namespace every_class
