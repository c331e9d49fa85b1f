// The table of a target. Part of its body.

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
inline constexpr TileKernel<Scalar> kernel{
    .name = RING_ATTENTION_TARGET_NAME,
    .backward_name = RING_ATTENTION_TARGET_NAME,
    .lanes = Forward<Scalar>::lanes,
    .max_vectors = max_vectors,
    .panel = panel,
    .key_block = Forward<Scalar>::key_block,
    .forward_scratch = ForwardOf<Scalar>::score_elements,
    .backward_scratch = BackwardOf<Scalar>::scratch_elements,
    .query_bytes = ForwardOf<Scalar>::query_bytes,
    .key_bytes = ForwardOf<Scalar>::key_bytes,
    .value_bytes = ForwardOf<Scalar>::value_bytes,
    .gradient_lane_bytes = BackwardOf<Scalar>::lane_bytes,
    .gradient_panel_bytes = BackwardOf<Scalar>::panel_bytes,
    .gradient_row_bytes = BackwardOf<Scalar>::row_bytes,
    .pack_keys = ForwardOf<Scalar>::pack_keys,
    .pack_values = ForwardOf<Scalar>::pack_values,
    .load_queries = ForwardOf<Scalar>::load_queries,
    .load_states = Forward<Scalar>::load_states,
    .store_states = Forward<Scalar>::store_states,
    .attend = ForwardOf<Scalar>::attend,
    .pack_gradient_panels = BackwardOf<Scalar>::pack_panels,
    .pack_gradient_rows = BackwardOf<Scalar>::pack_rows,
    .load_gradients = BackwardOf<Scalar>::load_gradients,
    .accumulate = BackwardOf<Scalar>::accumulate,
    .pack_panels = Forward<Scalar>::pack_panels,
    .probabilities = Backward<Scalar>::probabilities,
    .round_row = round_row<Scalar>,
    .add_row = add_row<accumulator_t<Scalar>>,
    .dot = BackwardOf<Scalar>::dot,
};
