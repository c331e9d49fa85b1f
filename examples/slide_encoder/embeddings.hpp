// From tiles to embeddings: the layers one after the other.
#pragma once

#include <cstdint>

#include "encoder.hpp"
#include "matrix.hpp"
#include "tiles.hpp"

namespace slide_encoder {

struct Embeddings {
  Matrix<float> output;  ///< [1, embed]
  Matrix<float> layers;  ///< [layers + 1, embed] where they are wanted, else empty
};

/// Runs the encoder; calls after_layer() after each layer. With `all_layers` also the embeddings of the state
/// before the first layer and after every one, without the encoder's last layer norm (GigaPath's
/// all_layer_embed).
template <class Scalar, class AfterLayer>
Embeddings encode(const SlideEncoder<Scalar>& encoder, const Tiles& tiles, Pooling pooling, bool all_layers,
                  const AfterLayer& after_layer) {
  Embeddings embeddings;
  Matrix<float> state = encoder.embed(tiles);
  const auto keep_layer = [&](std::int64_t row) {
    if (all_layers) embeddings.layers.row(row) = encoder.pool(state, pooling);
  };
  if (all_layers) embeddings.layers.resize(encoder.layers() + 1, state.cols());
  keep_layer(0);
  auto workspace = encoder.make_workspace(state.rows());
  for (std::int64_t layer = 0; layer < encoder.layers(); ++layer) {
    encoder.apply_layer(layer, state, workspace);
    keep_layer(layer + 1);
    after_layer();
  }
  encoder.normalize_output(state);
  embeddings.output = encoder.pool(state, pooling);
  return embeddings;
}

}  // namespace slide_encoder
