// The CPU backend's forward pass: executes an AttentionPlan with a tile kernel.
//
// One task owns a block of query rows for heads that share a key/value head. It walks branches, segments and
// offset classes; for each it loads the rows' softmax state into tiles, packs the kept keys shard by shard
// straight from the caller's tensors, and lets the kernel attend every tile to every packed run. Each packed
// key thus serves all query heads of the group and all rows of the block; all branches merge in one state, no
// output is copied.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numbers>
#include <ring_attention/engine/plan.hpp>
#include <ring_attention/engine/shards.hpp>
#include <ring_attention/kernel/portable_kernel.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <span>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

/// Tensors of one call. lse may be a view without data: then it is not wanted.
template <class Scalar>
struct ForwardTensors {
  TensorView<const Scalar> q, k, v;
  TensorView<Scalar> out;
  TensorView<accumulator_t<Scalar>> lse;
};

/// Query rows [begin, end) of shard `shard`.
struct RowBlock {
  std::int64_t begin;
  std::int64_t end;
  std::int64_t shard;
};

/// How a call is cut into tasks: batch items x key/value heads x parts of a head group x row blocks.
struct ForwardPartition {
  std::int64_t heads_per_task = 1;
  std::int64_t head_parts = 1;  // tasks per key/value head
  std::vector<RowBlock> blocks;

  std::int64_t tasks(const CallShape& shape) const {
    return shape.batch * shape.kv_heads * head_parts * static_cast<std::int64_t>(blocks.size());
  }
};

/// Blocks are as long as a state of `state_elements` allows, because longer blocks pack each key for more
/// queries, and no longer than a shard, so that working memory is O(n / ring_size).
inline ForwardPartition partition_forward(const AttentionPlan& plan, std::int64_t state_elements,
                                          int threads) {
  constexpr std::int64_t shortest = 64;
  constexpr std::int64_t tasks_per_thread = 4;  // enough to even out unequal tasks
  const CallShape& shape = plan.shape;
  const std::int64_t group = shape.heads / shape.kv_heads;
  ForwardPartition partition;
  partition.heads_per_task = std::clamp<std::int64_t>(state_elements / (shortest * shape.head_dim), 1, group);
  partition.head_parts = detail::ceil_div(group, partition.heads_per_task);
  const detail::SequenceRuns shards(shape.tokens, plan.ring_size);
  std::int64_t rows = std::max(shortest, state_elements / (partition.heads_per_task * shape.head_dim));
  const std::int64_t columns = shape.batch * shape.kv_heads * partition.head_parts;
  while (rows > 4 * shortest && detail::ceil_div(shape.tokens, rows) * columns < tasks_per_thread * threads)
    rows /= 2;
  rows = std::min(rows, shards.run_length);
  for (std::int64_t shard = 0; shard < shards.count(); ++shard) {
    for (std::int64_t begin = shards.begin(shard); begin < shards.end(shard); begin += rows) {
      partition.blocks.push_back({begin, std::min(begin + rows, shards.end(shard)), shard});
    }
  }
  return partition;
}

/// Working memory of one thread; grows and is then reused.
template <class T>
class ForwardWorkspace {
 public:
  using Index = LaneIndex<T>;

  std::vector<T> output, maximum, sum;                     // state of a task's rows, row-major
  std::vector<T> tile_query, tile_output, tile_statistic;  // tiles of one segment and offset class
  std::vector<std::int64_t> tile_limit;                    // keys visible to each tile lane
  std::vector<T> packed_keys, packed_values, scores;
  std::vector<Index> limits;
  std::vector<std::int64_t> heads;  // of one offset class
};

/// Runs tasks of one call. One object serves all threads; each brings its workspace.
template <class Scalar, class Kernel>
class ForwardPass {
  using T = accumulator_t<Scalar>;
  using Workspace = ForwardWorkspace<T>;

 public:
  /// Rows packed at once: keys and values of one run stay in the second-level cache.
  static constexpr std::int64_t run_keys = 512;
  /// Elements of a task's state: 1 MiB.
  static constexpr std::int64_t state_elements =
      (std::int64_t{1} << 20) / static_cast<std::int64_t>(sizeof(T));

  ForwardPass(const AttentionPlan& plan, const ForwardTensors<Scalar>& tensors,
              const ForwardPartition& partition)
      : plan_(plan),
        tensors_(tensors),
        partition_(partition),
        shards_(plan.shape.tokens, plan.ring_size),
        head_dim_(plan.shape.head_dim),
        padded_dim_(Kernel::padded(head_dim_)),
        query_scale_(static_cast<T>(plan.scale * std::numbers::log2e)) {}

  void run(std::int64_t index, Workspace& work) const {
    // Later blocks have more keys when causal: they start first, so that no thread ends alone with a long
    // one.
    const std::int64_t columns =
        partition_.tasks(plan_.shape) / static_cast<std::int64_t>(partition_.blocks.size());
    const auto block_index = partition_.blocks.size() - 1 - static_cast<std::size_t>(index / columns);
    const std::int64_t group = plan_.shape.heads / plan_.shape.kv_heads;
    Task task;
    std::int64_t rest = index % columns;
    const std::int64_t part = rest % partition_.head_parts;
    rest /= partition_.head_parts;
    task.kv_head = rest % plan_.shape.kv_heads;
    task.item = rest / plan_.shape.kv_heads;
    task.head_begin = task.kv_head * group + part * partition_.heads_per_task;
    task.head_end = std::min(task.head_begin + partition_.heads_per_task, (task.kv_head + 1) * group);
    task.block = partition_.blocks[block_index];
    const SequencePlan& sequence =
        plan_.sequences[plan_.sequence_of_item[static_cast<std::size_t>(task.item)]];
    task.valid_end = std::clamp(sequence.length, task.block.begin, task.block.end);

    reset_state(task, work);
    if (task.valid_end > task.block.begin) {
      for (const BranchPlan& branch : sequence.branches) run_branch(task, sequence.length, branch, work);
    }
    write_results(task, work);
  }

 private:
  struct Task {
    std::int64_t item, kv_head, head_begin, head_end;
    RowBlock block;
    std::int64_t valid_end;  // block rows from here on lie past the item's length
    std::int64_t rows() const { return valid_end - block.begin; }
  };

  /// One segment seen from one offset class: which rows ask and which answer.
  struct Segment {
    std::span<const std::int64_t> kept;   // rows of the segment, relative to its begin
    std::int64_t begin, end;              // tokens
    std::int64_t query_begin, query_end;  // positions in `kept` (dilated) or tokens relative to begin (all)
  };

  void reset_state(const Task& task, Workspace& work) const {
    const auto rows = static_cast<std::size_t>(task.rows() * (task.head_end - task.head_begin));
    work.output.assign(rows * static_cast<std::size_t>(padded_dim_), T{0});
    work.maximum.assign(rows, -std::numeric_limits<T>::infinity());
    work.sum.assign(rows, T{0});
  }

  void run_branch(const Task& task, std::int64_t length, const BranchPlan& branch, Workspace& work) const {
    const std::int64_t head_begin = std::max(task.head_begin, branch.head_begin);
    const std::int64_t head_end = std::min(task.head_end, branch.head_end);
    for (std::size_t o = 0; o < branch.offsets.size(); ++o) {
      work.heads.clear();
      for (std::int64_t head = head_begin; head < head_end; ++head) {
        if (branch.offset_of_head[static_cast<std::size_t>(head - branch.head_begin)] == o) {
          work.heads.push_back(head);
        }
      }
      if (work.heads.empty()) continue;
      const std::span<const std::int64_t> rows = branch.offsets[o].pattern->rows();
      const std::int64_t w = branch.segment_length;
      for (std::int64_t begin = task.block.begin / w * w; begin < task.valid_end; begin += w) {
        Segment segment{rows, begin, std::min(begin + w, length), 0, 0};
        segment.kept = rows.first(position(rows, segment.end - begin));
        segment.query_begin = std::max(task.block.begin, begin) - begin;
        segment.query_end = std::min(task.valid_end, segment.end) - begin;
        if (plan_.query_rule == QueryRule::dilated) {
          segment.query_begin = static_cast<std::int64_t>(position(rows, segment.query_begin));
          segment.query_end = static_cast<std::int64_t>(position(rows, segment.query_end));
        }
        if (segment.query_begin == segment.query_end) continue;
        if (plan_.zero_keys) {
          const std::int64_t padded_rows = detail::ceil_div(w, branch.dilation_rate);
          absorb_zero_keys(task, segment, padded_rows - static_cast<std::int64_t>(segment.kept.size()), work);
        }
        attend_segment(task, segment, work);
      }
    }
  }

  /// First position in an ascending list whose row is not below `row`.
  static std::size_t position(std::span<const std::int64_t> rows, std::int64_t row) {
    return static_cast<std::size_t>(std::lower_bound(rows.begin(), rows.end(), row) - rows.begin());
  }

  std::int64_t query_token(const Segment& segment, std::int64_t query) const {
    return segment.begin +
           (plan_.query_rule == QueryRule::dilated ? segment.kept[static_cast<std::size_t>(query)] : query);
  }

  std::int64_t state_row(const Task& task, std::int64_t head, std::int64_t token) const {
    return (head - task.head_begin) * task.rows() + (token - task.block.begin);
  }

  /// Merges the state m = 0, l = z, O = 0: z keys of score 0 and value 0 (torchscale's padding, never in
  /// memory).
  void absorb_zero_keys(const Task& task, const Segment& segment, std::int64_t zero_keys,
                        Workspace& work) const {
    if (zero_keys == 0) return;
    for (const std::int64_t head : work.heads) {
      for (std::int64_t query = segment.query_begin; query < segment.query_end; ++query) {
        const auto row = static_cast<std::size_t>(state_row(task, head, query_token(segment, query)));
        const T before = work.maximum[row];
        const T maximum = std::max(before, T{0});
        const T factor = std::exp2(before - maximum);
        work.maximum[row] = maximum;
        work.sum[row] = work.sum[row] * factor + static_cast<T>(zero_keys) * std::exp2(-maximum);
        if (factor == T{1}) continue;
        T* output = work.output.data() + static_cast<std::ptrdiff_t>(row) * padded_dim_;
        for (std::int64_t d = 0; d < head_dim_; ++d) output[d] *= factor;
      }
    }
  }

  /// Tiles of a segment: entry e is query `query_begin + e % queries` of head `heads[e / queries]`.
  struct Tiles {
    std::int64_t queries, entries, count;
    QueryTile<T> tile(Workspace& work, std::int64_t t, std::int64_t head_dim, std::int64_t padded_dim) const {
      constexpr std::int64_t most = Kernel::max_queries;
      return {work.tile_query.data() + t * most * head_dim, work.tile_output.data() + t * most * padded_dim,
              work.tile_statistic.data() + t * most * 2, work.tile_statistic.data() + t * most * 2 + most,
              Kernel::vectors_for(entries - t * most)};
    }
  };

  void attend_segment(const Task& task, const Segment& segment, Workspace& work) const {
    std::int64_t key_end = static_cast<std::int64_t>(segment.kept.size());
    if (plan_.causal) {
      const std::int64_t last_query = query_token(segment, segment.query_end - 1) - segment.begin;
      key_end = static_cast<std::int64_t>(position(segment.kept, last_query + 1));
    }
    if (key_end == 0) return;
    const Tiles tiles = load_tiles(task, segment, key_end, work);

    // The ring's order: a shard's own keys first, then those of the member before it, and so on around.
    const std::int64_t first_shard = shards_.of_token(segment.begin);
    const std::int64_t shard_count = shards_.of_token(segment.end - 1) - first_shard + 1;
    for (std::int64_t step = 0; step < shard_count; ++step) {
      const std::int64_t shard =
          first_shard + (task.block.shard - first_shard - step + shard_count) % shard_count;
      const auto begin =
          static_cast<std::int64_t>(position(segment.kept, shards_.begin(shard) - segment.begin));
      const auto end = static_cast<std::int64_t>(position(segment.kept, shards_.end(shard) - segment.begin));
      for (std::int64_t key = begin; key < std::min(end, key_end); key += run_keys) {
        attend_run(task, segment, key, std::min({key + run_keys, end, key_end}), tiles, work);
      }
    }
    store_tiles(task, segment, tiles, work);
  }

  Tiles load_tiles(const Task& task, const Segment& segment, std::int64_t key_end, Workspace& work) const {
    constexpr std::int64_t most = Kernel::max_queries;
    Tiles tiles{};
    tiles.queries = segment.query_end - segment.query_begin;
    tiles.entries = tiles.queries * static_cast<std::int64_t>(work.heads.size());
    tiles.count = detail::ceil_div(tiles.entries, most);
    const auto lanes = static_cast<std::size_t>(tiles.count * most);
    work.tile_query.resize(lanes * static_cast<std::size_t>(head_dim_));
    work.tile_output.resize(lanes * static_cast<std::size_t>(padded_dim_));
    work.tile_statistic.resize(lanes * 2);
    work.tile_limit.assign(lanes, key_end);
    for (std::int64_t t = 0; t < tiles.count; ++t) {
      const QueryTile<T> tile = tiles.tile(work, t, head_dim_, padded_dim_);
      const std::int64_t width = tile.vectors * Kernel::lanes;
      for (std::int64_t lane = 0; lane < width; ++lane) {
        const std::int64_t entry = t * most + lane;
        if (entry >=
            tiles.entries) {  // lanes without a query carry zeros, so that nothing in them can be NaN
          for (std::int64_t d = 0; d < head_dim_; ++d) tile.query[d * width + lane] = T{0};
          for (std::int64_t d = 0; d < padded_dim_; ++d) tile.output[d * width + lane] = T{0};
          tile.maximum[lane] = T{0};
          tile.sum[lane] = T{0};
          continue;
        }
        const std::int64_t head = work.heads[static_cast<std::size_t>(entry / tiles.queries)];
        const std::int64_t token = query_token(segment, segment.query_begin + entry % tiles.queries);
        const Scalar* query = tensors_.q.row(task.item, token, head);
        for (std::int64_t d = 0; d < head_dim_; ++d) {
          tile.query[d * width + lane] = static_cast<T>(query[d]) * query_scale_;
        }
        const std::int64_t row = state_row(task, head, token);
        const T* output = work.output.data() + row * padded_dim_;
        for (std::int64_t d = 0; d < padded_dim_; ++d) tile.output[d * width + lane] = output[d];
        tile.maximum[lane] = work.maximum[static_cast<std::size_t>(row)];
        tile.sum[lane] = work.sum[static_cast<std::size_t>(row)];
        if (plan_.causal) {
          work.tile_limit[static_cast<std::size_t>(entry)] =
              static_cast<std::int64_t>(position(segment.kept, token - segment.begin + 1));
        }
      }
    }
    return tiles;
  }

  void store_tiles(const Task& task, const Segment& segment, const Tiles& tiles, Workspace& work) const {
    constexpr std::int64_t most = Kernel::max_queries;
    for (std::int64_t t = 0; t < tiles.count; ++t) {
      const QueryTile<T> tile = tiles.tile(work, t, head_dim_, padded_dim_);
      const std::int64_t width = tile.vectors * Kernel::lanes;
      for (std::int64_t lane = 0; lane < std::min(width, tiles.entries - t * most); ++lane) {
        const std::int64_t entry = t * most + lane;
        const std::int64_t head = work.heads[static_cast<std::size_t>(entry / tiles.queries)];
        const std::int64_t token = query_token(segment, segment.query_begin + entry % tiles.queries);
        const std::int64_t row = state_row(task, head, token);
        T* output = work.output.data() + row * padded_dim_;
        for (std::int64_t d = 0; d < padded_dim_; ++d) output[d] = tile.output[d * width + lane];
        work.maximum[static_cast<std::size_t>(row)] = tile.maximum[lane];
        work.sum[static_cast<std::size_t>(row)] = tile.sum[lane];
      }
    }
  }

  /// Packs kept keys [begin, end) of the segment once and attends every tile to them.
  void attend_run(const Task& task, const Segment& segment, std::int64_t begin, std::int64_t end,
                  const Tiles& tiles, Workspace& work) const {
    constexpr std::int64_t most = Kernel::max_queries;
    const std::int64_t count = end - begin;
    work.packed_keys.resize(static_cast<std::size_t>(Kernel::padded(run_keys) * head_dim_));
    work.packed_values.resize(static_cast<std::size_t>(run_keys * padded_dim_));
    work.scores.resize(static_cast<std::size_t>(Kernel::score_elements));
    work.limits.resize(static_cast<std::size_t>(most));
    const std::int64_t* index = segment.kept.data() + begin;
    const RowSource<Scalar> keys{tensors_.k.row(task.item, segment.begin, task.kv_head),
                                 tensors_.k.strides()[1], index};
    const RowSource<Scalar> values{tensors_.v.row(task.item, segment.begin, task.kv_head),
                                   tensors_.v.strides()[1], index};
    Kernel::pack_keys(keys, count, head_dim_, work.packed_keys.data());
    Kernel::pack_values(values, count, head_dim_, run_keys, work.packed_values.data());
    const PackedKeys<T> packed{work.packed_keys.data(), work.packed_values.data(), count, run_keys};
    for (std::int64_t t = 0; t < tiles.count; ++t) {
      const QueryTile<T> tile = tiles.tile(work, t, head_dim_, padded_dim_);
      const std::int64_t* limit = work.tile_limit.data() + t * most;
      const std::int64_t width = tile.vectors * Kernel::lanes;
      const auto [least, greatest] = std::minmax_element(limit, limit + width);
      if (*greatest <= begin) continue;
      const bool masked = *least < end;
      if (masked) {
        for (std::int64_t lane = 0; lane < width; ++lane) {
          work.limits[static_cast<std::size_t>(lane)] =
              static_cast<LaneIndex<T>>(std::clamp<std::int64_t>(limit[lane] - begin, 0, count));
        }
      }
      Kernel::attend(packed, tile, masked ? work.limits.data() : nullptr, head_dim_, work.scores.data());
    }
  }

  /// out = O / l, lse = ln 2 * (m + log2 l); rows without keys and rows past the item's length: 0 and
  /// -infinity.
  void write_results(const Task& task, const Workspace& work) const {
    for (std::int64_t head = task.head_begin; head < task.head_end; ++head) {
      for (std::int64_t token = task.block.begin; token < task.block.end; ++token) {
        Scalar* out = tensors_.out.row(task.item, token, head);
        T lse = -std::numeric_limits<T>::infinity();
        const auto row = static_cast<std::size_t>(state_row(task, head, token));
        if (token < task.valid_end && work.sum[row] != T{0}) {
          const T inverse = T{1} / work.sum[row];
          const T* output = work.output.data() + static_cast<std::ptrdiff_t>(row) * padded_dim_;
          for (std::int64_t d = 0; d < head_dim_; ++d) out[d] = static_cast<Scalar>(output[d] * inverse);
          lse = std::numbers::ln2_v<T> * (work.maximum[row] + std::log2(work.sum[row]));
        } else {
          std::fill_n(out, head_dim_, Scalar(0));
        }
        if (tensors_.lse.data() != nullptr) *tensors_.lse.row(task.item, head, token) = lse;
      }
    }
  }

  const AttentionPlan& plan_;
  const ForwardTensors<Scalar>& tensors_;
  const ForwardPartition& partition_;
  detail::SequenceRuns shards_;
  std::int64_t head_dim_;
  std::int64_t padded_dim_;
  T query_scale_;
};

/// Executes a plan. `lse` may be a view without data: then it is not written.
template <class Scalar>
void attend(const AttentionPlan& plan, const TensorView<const Scalar>& q, const TensorView<const Scalar>& k,
            const TensorView<const Scalar>& v, const TensorView<Scalar>& out,
            const TensorView<accumulator_t<Scalar>>& lse) {
  using T = accumulator_t<Scalar>;
  using Pass = ForwardPass<Scalar, PortableKernel<T>>;
  if (plan.shape.batch == 0 || plan.shape.tokens == 0) return;
  const int threads = num_threads();
  const ForwardPartition partition = partition_forward(plan, Pass::state_elements, threads);
  const ForwardTensors<Scalar> tensors{q, k, v, out, lse};
  const Pass pass(plan, tensors, partition);
  std::vector<ForwardWorkspace<T>> workspaces(static_cast<std::size_t>(threads));
  detail::parallel_for(partition.tasks(plan.shape), threads, [&](std::int64_t index, int worker) {
    pass.run(index, workspaces[static_cast<std::size_t>(worker)]);
  });
}

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
