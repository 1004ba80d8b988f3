// Norm + rotation + cache write, and attention over the paged cache: every table against the
// reference over awkward shapes, and bitwise equality for any chunking of a prompt.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "tests/conformance/conformance.h"

namespace atom::conformance {
namespace {

struct Shape {
  int64_t num_heads, num_kv_heads, head_dim, block_size;
  DType cache = DType::kBF16;
  int64_t sliding_window = 0;
  bool sinks = false;
  bool norms = false;
  int64_t rotary_dim = 0;  // 0: all
};

struct Span {
  int64_t context, query;  // the newest `query` of `context` tokens are computed
};

// Several sequences in one cache whose blocks are dealt out in random order; unused memory is NaN.
struct Scene {
  Shape shape;
  int64_t num_blocks = 0;
  std::vector<int32_t> query_start, context_lens, block_tables, positions;
  std::vector<int64_t> slots;
  std::vector<uint8_t> k, v;
  std::vector<float> sinks, q_norm, k_norm;
  AttentionMetadata meta;
  PagedKvCache cache;

  Scene(const Shape& s, const std::vector<Span>& spans, uint64_t seed) : shape(s) {
    Rng rng(seed);
    int64_t most = 1, total = 0;
    for (const Span& span : spans) {
      const int64_t blocks = (span.context + s.block_size - 1) / s.block_size;
      most = std::max(most, blocks);
      total += blocks;
    }
    num_blocks = total + 3;
    std::vector<int32_t> order(static_cast<size_t>(num_blocks));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), rng);
    block_tables.assign(spans.size() * static_cast<size_t>(most), -1);
    size_t next = 0;
    query_start.push_back(0);
    for (size_t i = 0; i < spans.size(); ++i) {
      for (int64_t b = 0; b * s.block_size < spans[i].context; ++b) {
        block_tables[i * static_cast<size_t>(most) + static_cast<size_t>(b)] = order[next++];
      }
      context_lens.push_back(static_cast<int32_t>(spans[i].context));
      query_start.push_back(query_start.back() + static_cast<int32_t>(spans[i].query));
      for (int64_t p = spans[i].context - spans[i].query; p < spans[i].context; ++p) {
        positions.push_back(static_cast<int32_t>(p));
        slots.push_back(slot(i, most, p));
      }
    }
    const auto bytes = static_cast<size_t>(
        dtype_bytes(s.cache, num_blocks * s.num_kv_heads * s.block_size * s.head_dim));
    k.assign(bytes, 0xff);
    v.assign(bytes, 0xff);
    Rng weights(seed);  // the same for any number of blocks
    sinks = random_floats(weights, s.num_heads);
    q_norm = random_floats(weights, s.head_dim);
    k_norm = random_floats(weights, s.head_dim);
    meta = {.num_tokens = static_cast<int64_t>(positions.size()),
            .num_seqs = static_cast<int64_t>(spans.size()),
            .block_size = s.block_size,
            .block_table_stride = most,
            .query_start = query_start.data(),
            .context_lens = context_lens.data(),
            .block_tables = block_tables.data(),
            .positions = positions.data(),
            .slot_mapping = slots.data()};
    cache = {.k = k.data(),
             .v = v.data(),
             .dtype = s.cache,
             .num_blocks = num_blocks,
             .num_kv_heads = s.num_kv_heads,
             .block_size = s.block_size,
             .head_dim = s.head_dim,
             .k_scale = s.cache == DType::kF8E4M3 ? 0.5F : 1.0F,
             .v_scale = s.cache == DType::kF8E4M3 ? 0.25F : 1.0F};
  }

  int64_t slot(size_t sequence, int64_t stride, int64_t p) const {
    const auto entry =
        sequence * static_cast<size_t>(stride) + static_cast<size_t>(p / shape.block_size);
    return block_tables[entry] * shape.block_size + p % shape.block_size;
  }
  int64_t row() const { return (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim; }
  int64_t rotary() const { return shape.rotary_dim == 0 ? shape.head_dim : shape.rotary_dim; }
};

// Rotates and writes all tokens of qkv, then attends; qkv is changed.
std::vector<float> run(Context& ctx, Scene& scene, std::vector<float>& qkv) {
  const Shape& s = scene.shape;
  ctx->attention = &scene.meta;
  const int64_t tokens = scene.meta.num_tokens;
  std::vector<float> inv_freq, angles(static_cast<size_t>(tokens * scene.rotary()));
  for (int64_t i = 0; i < scene.rotary() / 2; ++i) {
    inv_freq.push_back(
        std::pow(10000.0F, -2.0F * static_cast<float>(i) / static_cast<float>(scene.rotary())));
  }
  const Tensor cos_sin = matrix(angles, tokens, scene.rotary());
  ctx->ops->rope_cos_sin(*ctx, inv_freq, 1.0F, cos_sin);
  const Tensor input = matrix(qkv, tokens, scene.row());
  ctx->ops->qk_norm_rope_kv_write(*ctx, {.qkv = input,
                                         .num_heads = s.num_heads,
                                         .num_kv_heads = s.num_kv_heads,
                                         .head_dim = s.head_dim,
                                         .rotary_dim = scene.rotary(),
                                         .cos_sin = cos_sin,
                                         .q_norm = s.norms ? scene.q_norm.data() : nullptr,
                                         .k_norm = s.norms ? scene.k_norm.data() : nullptr,
                                         .cache = scene.cache});
  std::vector<float> out(static_cast<size_t>(tokens * s.num_heads * s.head_dim), NAN);
  ctx->ops->paged_attention(*ctx, {.qkv = input,
                                   .out = matrix(out, tokens, s.num_heads * s.head_dim),
                                   .num_heads = s.num_heads,
                                   .num_kv_heads = s.num_kv_heads,
                                   .head_dim = s.head_dim,
                                   .scale = 1.0F / std::sqrt(static_cast<float>(s.head_dim)),
                                   .cache = scene.cache,
                                   .sliding_window = s.sliding_window,
                                   .sinks = s.sinks ? scene.sinks.data() : nullptr});
  return out;
}

std::vector<Shape> shapes() {
  std::vector<Shape> all;
  for (const DType cache : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    for (const int64_t d : {4, 16, 40, 64, 80, 96, 128, 256}) {
      all.push_back(
          {.num_heads = 6, .num_kv_heads = 2, .head_dim = d, .block_size = 16, .cache = cache});
    }
    all.push_back(
        {.num_heads = 3, .num_kv_heads = 3, .head_dim = 64, .block_size = 1, .cache = cache});
    all.push_back(
        {.num_heads = 40, .num_kv_heads = 1, .head_dim = 16, .block_size = 7, .cache = cache});
    all.push_back(
        {.num_heads = 9, .num_kv_heads = 3, .head_dim = 64, .block_size = 256, .cache = cache});
    all.push_back({.num_heads = 4,
                   .num_kv_heads = 2,
                   .head_dim = 32,
                   .block_size = 16,
                   .cache = cache,
                   .sliding_window = 5});
    all.push_back({.num_heads = 4,
                   .num_kv_heads = 2,
                   .head_dim = 32,
                   .block_size = 16,
                   .cache = cache,
                   .sliding_window = 70,
                   .sinks = true});
    all.push_back({.num_heads = 4,
                   .num_kv_heads = 4,
                   .head_dim = 64,
                   .block_size = 16,
                   .cache = cache,
                   .norms = true,
                   .rotary_dim = 32});
  }
  return all;
}

std::string describe(const Shape& s, std::string_view table) {
  return str_format("{}: {}/{} heads of {}, block {}, cache {}, window {}", table, s.num_heads,
                    s.num_kv_heads, s.head_dim, s.block_size, dtype_name(s.cache),
                    s.sliding_window);
}

TEST(AttentionConformance, MatchesReference) {
  const std::vector<Span> spans{{1, 1},   {2, 2},   {16, 16}, {17, 17},
                                {63, 63}, {64, 64}, {65, 65}, {130, 130}};
  for (const auto& table : all_tables()) {
    for (const Shape& shape : shapes()) {
      Scene want_scene(shape, spans, 11), scene(shape, spans, 11);
      Rng rng(13);
      auto want_qkv = random_floats(rng, scene.meta.num_tokens * scene.row(), 0.5F);
      auto qkv = want_qkv;
      Context reference(reference_table(), 2), ctx(*table, 2);
      const auto want = run(reference, want_scene, want_qkv);
      const auto got = run(ctx, scene, qkv);
      EXPECT_LE(nmse(qkv, want_qkv), 1e-12) << describe(shape, table->name);
      // A cache value next to a rounding boundary may round the other way after another order of
      // sums.
      const double limit = shape.cache == DType::kF32 || !shape.norms ? 1e-10 : 1e-5;
      EXPECT_LE(nmse(got, want), limit) << describe(shape, table->name);
    }
  }
}

// The same prompt computed whole, in chunks of several sizes, and token by token.
TEST(AttentionConformance, SameBitsForAnyChunking) {
  constexpr int64_t kLength = 150;
  for (const auto& table : all_tables()) {
    for (const Shape& shape : shapes()) {
      Context ctx(*table, 2);
      Scene whole_scene(shape, {{kLength, kLength}}, 17);
      Rng rng(19);
      const auto qkv = random_floats(rng, kLength * whole_scene.row(), 0.5F);
      auto input = qkv;
      const auto whole = run(ctx, whole_scene, input);
      const int64_t row = shape.num_heads * shape.head_dim;
      for (const int64_t chunk : {1, 3, 64, 100}) {
        Scene cached(shape, {{kLength, kLength}}, 17);
        for (int64_t begin = 0; begin < kLength; begin += chunk) {
          const int64_t size = std::min(chunk, kLength - begin);
          Scene scene(shape, {{begin + size, size}}, 17);
          scene.meta.block_tables = cached.block_tables.data();
          scene.meta.slot_mapping = cached.slots.data() + begin;
          scene.cache = cached.cache;
          std::vector<float> part(qkv.begin() + begin * scene.row(),
                                  qkv.begin() + (begin + size) * scene.row());
          const auto got = run(ctx, scene, part);
          ASSERT_EQ(0, memcmp(whole.data() + begin * row, got.data(), got.size() * 4))
              << describe(shape, table->name) << " chunk " << chunk << " at " << begin;
        }
      }
    }
  }
}

TEST(AttentionConformance, PaddingTokensAreZeroAndNotWritten) {
  for (const auto& table : all_tables()) {
    Context ctx(*table);
    const Shape shape{.num_heads = 2, .num_kv_heads = 1, .head_dim = 64, .block_size = 16};
    Scene scene(shape, {{5, 5}}, 23);
    scene.positions.resize(8, 0);
    scene.slots.resize(8, -1);
    scene.meta.num_tokens = 8;
    scene.meta.positions = scene.positions.data();
    scene.meta.slot_mapping = scene.slots.data();
    Rng rng(29);
    auto qkv = random_floats(rng, 8 * scene.row());
    const auto out = run(ctx, scene, qkv);
    for (size_t i = 0; i < out.size(); ++i) {
      EXPECT_TRUE(i < 5 * 128 ? std::isfinite(out[i]) : out[i] == 0.0F) << table->name << " " << i;
    }
    const auto written =
        scene.k.size() - static_cast<size_t>(std::count(scene.k.begin(), scene.k.end(), 0xff));
    EXPECT_LE(written, 5u * 64u * 2u);
  }
}

// A later token whose key and value are not numbers is nothing to the tokens before it.
TEST(AttentionConformance, LaterTokensDoNotLeak) {
  for (const auto& table : all_tables()) {
    Context ctx(*table);
    const Shape shape{.num_heads = 3, .num_kv_heads = 1, .head_dim = 64, .block_size = 16};
    Scene scene(shape, {{40, 40}}, 31);
    Rng rng(37);
    auto qkv = random_floats(rng, 40 * scene.row(), 0.5F);
    std::fill(qkv.end() - 128, qkv.end(), NAN);  // k and v of the last token
    const auto out = run(ctx, scene, qkv);
    EXPECT_TRUE(std::all_of(out.begin(), out.end() - 192, [](float x) { return std::isfinite(x); }))
        << table->name;
    EXPECT_TRUE(std::all_of(out.end() - 192, out.end(), [](float x) { return std::isnan(x); }))
        << table->name;
  }
}

}  // namespace
}  // namespace atom::conformance
