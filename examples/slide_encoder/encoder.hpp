// Prov-GigaPath's slide encoder (a LongNet): tiles of a slide in, one embedding of the slide out.
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <ring_attention/ring_attention.hpp>
#include <string>
#include <vector>

#include "../support/row_blocks.hpp"
#include "linear.hpp"
#include "matrix.hpp"
#include "pointwise.hpp"
#include "position_table.hpp"
#include "tiles.hpp"
#include "weights.hpp"

namespace slide_encoder {

enum class Pooling {
  cls,  ///< the class token
  mean  ///< the mean of the tiles
};

/// The weights of one layer.
template <class Scalar>
struct EncoderLayer {
  EncoderLayer(const Weights& weights, const std::string& name, float epsilon)
      : attention_norm(weights, name + "self_attn_layer_norm", epsilon),
        q(weights, name + "self_attn.q_proj"),
        k(weights, name + "self_attn.k_proj"),
        v(weights, name + "self_attn.v_proj"),
        inner_norm(weights, name + "self_attn.inner_attn_ln", epsilon),
        out(weights, name + "self_attn.out_proj"),
        ffn_norm(weights, name + "final_layer_norm", epsilon),
        fc1(weights, name + "ffn.fc1"),
        hidden_norm(weights, name + "ffn.ffn_layernorm", epsilon),
        fc2(weights, name + "ffn.fc2") {}

  LayerNorm attention_norm;
  Linear<Scalar> q, k, v;
  LayerNorm inner_norm;
  Linear<Scalar> out;
  LayerNorm ffn_norm;
  Linear<Scalar> fc1;
  LayerNorm hidden_norm;
  Linear<Scalar> fc2;
};

/// Scalar (float or Eigen::bfloat16) is what products and attention read. Their sums, and the state that
/// layers add to, are float.
template <class Scalar>
class SlideEncoder {
 public:
  /// `weights` must outlive the encoder, which uses float32 weights where they lie.
  explicit SlideEncoder(const Weights& weights)
      : config_(weights.config()),
        class_token_(weights.read("cls_token")),
        patch_embed_(weights, "patch_embed.proj"),
        attention_(config_.attention()),
        encoder_norm_(weights, "encoder.layer_norm", config_.layernorm_eps),
        norm_(weights, "norm", config_.norm_eps) {
    for (std::int64_t i = 0; i < config_.layers; ++i) {
      layers_.emplace_back(weights, "encoder.layers." + std::to_string(i) + ".", config_.layernorm_eps);
    }
  }

  std::int64_t layers() const { return config_.layers; }

  /// The state before the first layer, [tiles + 1, embed]: class token, then tiles with their positions.
  Matrix<float> embed(const Tiles& tiles) const {
    Matrix<float> state(tiles.count() + 1, config_.embed);
    state.row(0) = Eigen::Map<const Eigen::RowVectorXf>(class_token_.data(), config_.embed);
    examples::for_each_block(tiles.count(), block_rows, ra::num_threads(), [&] {
      return [&, positions = PositionTable(config_.embed),
              features = Matrix<float>(block_rows, config_.in_chans),
              rounded = Matrix<Scalar>()](std::int64_t first, std::int64_t count) mutable {
        tiles.read(first, features.topRows(count));
        rounded = features.topRows(count).template cast<Scalar>();
        auto target = state.middleRows(first + 1, count);
        patch_embed_(rounded, target);
        for (std::int64_t i = 0; i < count; ++i) {
          const Cell& cell = tiles.cell(first + i);
          target.row(i) += positions.entry(cell.u, cell.v).matrix().transpose();
        }
      };
    });
    return state;
  }

  /// Memory that all layers use: q, k and v of a token side by side, and what attention makes of them.
  struct Workspace {
    ra::Tensor<Scalar> qkv;
    ra::Tensor<Scalar> attended;
  };
  Workspace make_workspace(std::int64_t tokens) const {
    const std::int64_t head_dim = config_.embed / config_.heads;
    return {ra::Tensor<Scalar>(1, tokens, 3 * config_.heads, head_dim),
            ra::Tensor<Scalar>(1, tokens, config_.heads, head_dim)};
  }

  /// One layer, in place.
  void apply_layer(std::int64_t index, Matrix<float>& state, Workspace& workspace) const {
    const EncoderLayer<Scalar>& layer = layers_[static_cast<std::size_t>(index)];
    project(layer, state, workspace);
    attend(workspace);
    finish_layer(layer, state, workspace);
  }

  /// What follows the last layer, in place.
  void normalize_output(Matrix<float>& state) const { encoder_norm_(state, state); }

  /// An embedding of the slide, from the output or from the state between two layers.
  Eigen::RowVectorXf pool(const Matrix<float>& state, Pooling pooling) const {
    Matrix<float> pooled(1, config_.embed);
    if (pooling == Pooling::cls) {
      pooled = state.row(0);
    } else {
      pooled =
          state.bottomRows(state.rows() - 1).template cast<double>().colwise().mean().template cast<float>();
    }
    norm_(pooled, pooled);
    return pooled;
  }

  /// The layer norm of an embedding.
  const LayerNorm& norm() const { return norm_; }

 private:
  // Products of a block read all weights of a layer: fewer rows would read them more often, more rows would
  // not stay in the cache from one product to the next.
  static constexpr std::int64_t block_rows = 256;

  void project(const EncoderLayer<Scalar>& layer, const Matrix<float>& state, Workspace& workspace) const {
    const std::int64_t embed = config_.embed;
    Eigen::Map<Matrix<Scalar>> qkv(workspace.qkv.data(), state.rows(), 3 * embed);
    examples::for_each_block(state.rows(), block_rows, ra::num_threads(), [&] {
      return [&, normed = Matrix<Scalar>(block_rows, embed), projected = Matrix<float>(block_rows, embed)](
                 std::int64_t first, std::int64_t count) mutable {
        layer.attention_norm(state.middleRows(first, count), normed.topRows(count));
        std::int64_t column = 0;
        for (const Linear<Scalar>* projection : {&layer.q, &layer.k, &layer.v}) {
          (*projection)(normed.topRows(count), projected.topRows(count));
          qkv.block(first, column, count, embed) = projected.topRows(count).template cast<Scalar>();
          column += embed;
        }
      };
    });
  }

  void attend(Workspace& workspace) const {
    const std::int64_t tokens = workspace.attended.shape()[1];
    const std::int64_t heads = workspace.attended.shape()[2];
    const std::int64_t head_dim = workspace.attended.shape()[3];
    const auto part = [&](std::int64_t index) {
      return ra::TensorView<const Scalar>(workspace.qkv.data() + index * heads * head_dim,
                                          {1, tokens, heads, head_dim},
                                          {tokens * 3 * heads * head_dim, 3 * heads * head_dim, head_dim});
    };
    attention_.forward(part(0), part(1), part(2), workspace.attended.view());
  }

  /// Everything after attention, block by block: the wide rows of the feed-forward network never exist for
  /// all tokens.
  void finish_layer(const EncoderLayer<Scalar>& layer, Matrix<float>& state,
                    const Workspace& workspace) const {
    const std::int64_t embed = config_.embed;
    const Eigen::Map<const Matrix<Scalar>> attended(workspace.attended.data(), state.rows(), embed);
    examples::for_each_block(state.rows(), block_rows, ra::num_threads(), [&] {
      return [&, narrow = Matrix<Scalar>(block_rows, embed), wide = Matrix<Scalar>(block_rows, config_.ffn),
              hidden = Matrix<float>(block_rows, config_.ffn),
              change = Matrix<float>(block_rows, embed)](std::int64_t first, std::int64_t count) mutable {
        auto rows = state.middleRows(first, count);
        layer.inner_norm(attended.middleRows(first, count), narrow.topRows(count));
        layer.out(narrow.topRows(count), change.topRows(count));
        rows += change.topRows(count);

        layer.ffn_norm(rows, narrow.topRows(count));
        layer.fc1(narrow.topRows(count), hidden.topRows(count));
        gelu(hidden.topRows(count));
        layer.hidden_norm(hidden.topRows(count), wide.topRows(count));
        layer.fc2(wide.topRows(count), change.topRows(count));
        rows += change.topRows(count);
      };
    });
  }

  EncoderConfig config_;
  std::vector<float> class_token_;
  Linear<Scalar> patch_embed_;
  std::vector<EncoderLayer<Scalar>> layers_;
  ra::RingDilatedAttentionV2<Scalar> attention_;
  LayerNorm encoder_norm_;
  LayerNorm norm_;
};

}  // namespace slide_encoder
