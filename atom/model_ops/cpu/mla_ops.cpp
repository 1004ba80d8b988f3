// Latent attention on the CPU: checks and the division of work over threads; kernels do the rest.
// Attention is divided by sequence and token tile first. Where that leaves threads idle (decode of
// few sequences), by parts of the context, whose states are merged in a second pass, then by heads.
// No division changes a bit.
#include <algorithm>

#include "atom/model_ops/cpu/cpu_ops.h"

namespace atom {
namespace {

// Rows (tokens x heads) of a tile: enough to share a loaded block of keys, few enough to balance.
constexpr int64_t kTileRows = 256;
constexpr int64_t kMaxTileTokens = 16;
// Rows that share a loaded block of keys in the kernels; fewer in an item load it more often.
constexpr int64_t kMinItemRows = 8;

int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How the tiles of a step are divided into items.
struct MlaPlan {
  const AttentionMetadata& meta;
  const MlaShape& shape;
  int64_t part_keys;  // 0: contexts are not divided
  int64_t tile_tokens;
  int64_t num_tiles = 0;  // of all sequences
  int64_t wanted = 1;     // items per tile that keep all threads busy

  int64_t tiles_of(int64_t sequence) const {
    return div_up(meta.query_start[sequence + 1] - meta.query_start[sequence], tile_tokens);
  }
  // Parts of the context that the tile's last token sees.
  int64_t num_parts(const cpu::MlaItem& tile) const {
    const int64_t last = meta.context_lens[tile.sequence] -
                         (meta.query_start[tile.sequence + 1] - (tile.token_end - 1));
    return part_keys == 0 ? 1 : last / part_keys + 1;
  }
  bool divides_context(const cpu::MlaItem& tile) const {
    return wanted > 1 && num_parts(tile) > 1 &&
           num_parts(tile) * tile.rows() * cpu::mla_state_size(shape) <=
               cpu::kMlaStates / num_tiles;
  }
  // Heads of an item.
  int64_t head_step(const cpu::MlaItem& tile) const {
    const int64_t tokens = tile.token_end - tile.token_begin;
    const int64_t pieces = divides_context(tile) ? div_up(wanted, num_parts(tile)) : wanted;
    const int64_t least = std::min(shape.num_heads, div_up(kMinItemRows, tokens));
    return std::clamp(div_up(shape.num_heads, pieces), least, shape.num_heads);
  }
  template <class Body>
  void for_each_tile(const Body& body) const {
    for (int64_t s = 0; s < meta.num_seqs; ++s) {
      for (int64_t i = 0; i < tiles_of(s); ++i) {
        const int64_t begin = meta.query_start[s] + i * tile_tokens;
        body(cpu::MlaItem{
            .sequence = s,
            .token_begin = begin,
            .token_end = std::min<int64_t>(begin + tile_tokens, meta.query_start[s + 1]),
            .head_end = shape.num_heads});
      }
    }
  }
};

// Memory of the step arena as a list that grows.
struct ItemList {
  cpu::MlaItem* items = nullptr;
  int64_t count = 0;

  static ItemList allocate(const ExecContext& ctx, int64_t capacity) {
    const auto bytes = capacity * static_cast<int64_t>(sizeof(cpu::MlaItem));
    return {.items = static_cast<cpu::MlaItem*>(ctx.arena->allocate(DType::kU8, {bytes}).data())};
  }
  void add(const cpu::MlaItem& item) { items[count++] = item; }
};

// Items to compute and, of tiles whose context is divided, to merge.
struct ItemLists {
  ItemList compute, merge;
};

ItemLists make_items(const ExecContext& ctx, const MlaPlan& plan) {
  int64_t compute = 0;
  int64_t merge = 0;
  plan.for_each_tile([&](const cpu::MlaItem& tile) {
    const int64_t pieces = div_up(plan.shape.num_heads, plan.head_step(tile));
    const bool divided = plan.divides_context(tile);
    compute += pieces * (divided ? plan.num_parts(tile) : 1);
    merge += divided ? pieces : 0;
  });
  ItemLists lists{.compute = ItemList::allocate(ctx, compute),
                  .merge = ItemList::allocate(ctx, merge)};
  plan.for_each_tile([&](cpu::MlaItem item) {
    const int64_t step = plan.head_step(item);
    const int64_t parts = plan.num_parts(item);
    const bool divided = plan.divides_context(item);
    for (int64_t head = 0; head < plan.shape.num_heads; head += step) {
      item.head_begin = head;
      item.head_end = std::min(head + step, plan.shape.num_heads);
      item.part_begin = 0;
      item.part_end = parts;
      item.states = nullptr;
      if (!divided) {
        lists.compute.add(item);
        continue;
      }
      const int64_t part_size = item.rows() * cpu::mla_state_size(plan.shape);
      item.states = ctx.arena->allocate(DType::kF32, {parts * part_size}).data_as<float>();
      lists.merge.add(item);
      cpu::MlaItem part = item;
      for (part.part_begin = 0; part.part_begin < parts; ++part.part_begin) {
        part.part_end = part.part_begin + 1;
        part.states = item.states + part.part_begin * part_size;
        lists.compute.add(part);
      }
    }
  });
  return lists;
}

}  // namespace

void mla_cache_write_cpu(const ExecContext& ctx, const MlaCacheWriteParams& params) {
  const MlaShape& shape = params.shape;
  ATOM_CHECK(params.q.dim(1) == shape.num_heads * (shape.nope + shape.rope)) << params.q.dim(1);
  ATOM_CHECK(params.query.dim(1) == shape.num_heads * (shape.rank + shape.rope))
      << params.query.dim(1);
  ATOM_CHECK(params.latent.dim(1) == shape.rank + shape.rope) << params.latent.dim(1);
  ATOM_CHECK(shape.rank <= cpu::kMaxLatentRank && shape.rope <= cpu::kMaxLatentRope)
      << shape.rank << " + " << shape.rope;
  const cpu::MlaCacheWriteArgs args{.shape = shape,
                                    .q = params.q.data_as<float>(),
                                    .latent = params.latent.data_as<float>(),
                                    .query = params.query.data_as<float>(),
                                    .norm = params.norm,
                                    .norm_eps = params.norm_eps,
                                    .cos_sin = params.cos_sin.data_as<float>(),
                                    .slot_mapping = ctx.attention->slot_mapping,
                                    .cache = params.cache};
  parallel_ranges(ctx, params.q.dim(0), min_rows(shape.num_heads * shape.rope + shape.rank),
                  [&](cpu::Range tokens) { kernels_of(ctx).mla_cache_write(args, tokens); });
}

void mla_attention_cpu(const ExecContext& ctx, const MlaAttentionParams& params) {
  const AttentionMetadata& meta = *ctx.attention;
  const cpu::Kernels& kernels = kernels_of(ctx);
  const MlaShape& shape = params.shape;
  ATOM_CHECK(params.out.dim(1) == shape.num_heads * shape.rank) << params.out.dim(1);
  ATOM_CHECK(shape.rank <= cpu::kMaxLatentRank && shape.rope <= cpu::kMaxLatentRope)
      << shape.rank << " + " << shape.rope;
  const cpu::MlaAttentionArgs args{.shape = shape,
                                   .query = params.query.data_as<float>(),
                                   .out = params.out.data_as<float>(),
                                   .scale = params.scale,
                                   .cache = params.cache,
                                   .metadata = meta};
  const int64_t scratch = ctx.arena->mark();
  MlaPlan plan{.meta = meta,
               .shape = shape,
               .part_keys = kernels.mla_part_keys,
               .tile_tokens = std::clamp(kTileRows / shape.num_heads, int64_t{1}, kMaxTileTokens)};
  for (int64_t s = 0; s < meta.num_seqs; ++s) {
    plan.num_tiles += plan.tiles_of(s);
  }
  const int64_t busy = ctx.parallel.num_threads == 1 ? 1 : 2 * ctx.parallel.num_threads;
  plan.wanted = std::max<int64_t>(1, busy / std::max<int64_t>(1, plan.num_tiles));
  const ItemLists lists = make_items(ctx, plan);
  ctx.parallel(lists.compute.count,
               [&](int64_t i) { kernels.mla_attention(args, lists.compute.items[i]); });
  ctx.parallel(lists.merge.count,
               [&](int64_t i) { kernels.mla_merge(args, lists.merge.items[i]); });
  ctx.arena->rewind(scratch);
  // Padding tokens belong to no sequence.
  const int64_t used = meta.num_seqs == 0 ? 0 : meta.query_start[meta.num_seqs];
  const int64_t row = params.out.dim(1);
  std::fill_n(args.out + used * row, (params.out.dim(0) - used) * row, 0.0F);
}

}  // namespace atom
