// The tables of a target. Part of its body.

#if RING_ATTENTION_TARGET_BF16
template <class Scalar>
using ForwardOf = std::conditional_t<std::is_same_v<Scalar, Eigen::bfloat16>, PairForward, Forward<Scalar>>;
template <class Scalar>
using BackwardOf =
    std::conditional_t<std::is_same_v<Scalar, Eigen::bfloat16>, PairBackward, Backward<Scalar>>;
#else
template <class Scalar>
using ForwardOf = Forward<Scalar>;
template <class Scalar>
using BackwardOf = Backward<Scalar>;
#endif

template <class Scalar>
inline constexpr TileExtents tile_extents{Forward<Scalar>::lanes, max_vectors, panel};

template <class Scalar>
constexpr ForwardKernel<Scalar> make_kernel(std::type_identity<ForwardKernel<Scalar>>) {
  using Of = ForwardOf<Scalar>;
  return {
      .name = RING_ATTENTION_TARGET_NAME,
      .tile = tile_extents<Scalar>,
      .scratch = Of::score_elements,
      .query_bytes = Of::query_bytes,
      .key_bytes = Of::key_bytes,
      .value_bytes = Of::value_bytes,
      .pack_keys = Of::pack_keys,
      .pack_values = Of::pack_values,
      .load_queries = Of::load_queries,
      .load_states = Forward<Scalar>::load_states,
      .store_states = Forward<Scalar>::store_states,
      .attend = Of::attend,
      .round_row = round_row<Scalar>,
  };
}

template <class Scalar>
constexpr BackwardKernel<Scalar> make_kernel(std::type_identity<BackwardKernel<Scalar>>) {
  using Of = BackwardOf<Scalar>;
  return {
      .name = RING_ATTENTION_TARGET_NAME,
      .tile = tile_extents<Scalar>,
      .scratch = Of::scratch_elements,
      .lane_bytes = Of::lane_bytes,
      .panel_bytes = Of::panel_bytes,
      .row_bytes = Of::row_bytes,
      .pack_panels = Of::pack_panels,
      .pack_rows = Of::pack_rows,
      .load_gradients = Of::load_gradients,
      .accumulate = Of::accumulate,
      .round_row = round_row<Scalar>,
      .add_row = add_row<accumulator_t<Scalar>>,
      .dot = Of::dot,
  };
}

template <class Scalar>
constexpr ProbabilityKernel<Scalar> make_kernel(std::type_identity<ProbabilityKernel<Scalar>>) {
  return {
      .name = RING_ATTENTION_TARGET_NAME,
      .tile = tile_extents<Scalar>,
      .key_block = Forward<Scalar>::key_block,
      .scratch = Backward<Scalar>::scratch_elements,
      .pack_panels = Forward<Scalar>::pack_panels,
      .probabilities = Backward<Scalar>::probabilities,
  };
}

template <class Kernel>
inline constexpr Kernel kernel = make_kernel(std::type_identity<Kernel>());
