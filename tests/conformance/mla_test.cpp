// Latent attention: the cache write, attention over shared rows and the products per head. Every
// table against the reference over awkward shapes, and bitwise equality for any chunking of a
// prompt and any number of threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "tests/conformance/conformance.h"

namespace atom::conformance {
namespace {

struct Case {
  MlaShape shape;
  int64_t block_size = 16;
  DType cache = DType::kBF16;
};

struct Span {
  int64_t context, query;  // the newest `query` of `context` tokens are computed
};

// Several sequences in one cache whose blocks are dealt out in random order; unused memory is NaN.
struct Scene {
  Case c;
  std::vector<int32_t> query_start{0}, context_lens, block_tables, positions;
  std::vector<int64_t> slots;
  std::vector<uint8_t> rows;
  std::vector<float> norm;
  AttentionMetadata meta;
  PagedKvCache cache;

  Scene(const Case& given, const std::vector<Span>& spans) : c(given) {
    Rng rng(11);
    int64_t most = 1, total = 0;
    for (const Span& span : spans) {
      const int64_t blocks = (span.context + c.block_size - 1) / c.block_size;
      most = std::max(most, blocks);
      total += blocks;
    }
    std::vector<int32_t> order(static_cast<size_t>(total + 3));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), rng);
    size_t next = 0;
    for (const Span& span : spans) {
      const auto first = static_cast<int64_t>(block_tables.size());
      for (int64_t b = 0; b < most; ++b) {
        block_tables.push_back(b * c.block_size < span.context ? order[next++] : -1);
      }
      context_lens.push_back(static_cast<int32_t>(span.context));
      query_start.push_back(query_start.back() + static_cast<int32_t>(span.query));
      for (int64_t p = span.context - span.query; p < span.context; ++p) {
        positions.push_back(static_cast<int32_t>(p));
        slots.push_back(block_tables[static_cast<size_t>(first + p / c.block_size)] * c.block_size +
                        p % c.block_size);
      }
    }
    const int64_t size = c.shape.rank + c.shape.rope;
    const auto slots_in_cache = static_cast<int64_t>(order.size()) * c.block_size;
    rows.assign(static_cast<size_t>(dtype_bytes(c.cache, slots_in_cache * size)), 0xff);
    Rng weights(7);
    norm = random_floats(weights, c.shape.rank);
    meta = {.num_tokens = static_cast<int64_t>(positions.size()),
            .num_seqs = static_cast<int64_t>(spans.size()),
            .block_size = c.block_size,
            .block_table_stride = most,
            .query_start = query_start.data(),
            .context_lens = context_lens.data(),
            .block_tables = block_tables.data(),
            .positions = positions.data(),
            .slot_mapping = slots.data()};
    cache = {.k = rows.data(),
             .dtype = c.cache,
             .num_blocks = static_cast<int64_t>(order.size()),
             .num_kv_heads = 1,
             .block_size = c.block_size,
             .head_dim = size,
             .k_scale = c.cache == DType::kF8E4M3 ? 0.5F : 1.0F};
  }

  int64_t q_row() const { return c.shape.num_heads * (c.shape.nope + c.shape.rope); }
  int64_t query_row() const { return c.shape.num_heads * (c.shape.rank + c.shape.rope); }
  int64_t latent_row() const { return c.shape.rank + c.shape.rope; }
};

// What a layer projects for the tokens of a scene.
struct Inputs {
  std::vector<float> q, latent, query;

  Inputs(const Scene& scene, int64_t num_tokens) {
    Rng rng(13);
    q = random_floats(rng, num_tokens * scene.q_row(), 0.3F);
    latent = random_floats(rng, num_tokens * scene.latent_row(), 0.3F);
    query = random_floats(rng, num_tokens * scene.query_row(), 0.3F);
  }
  Inputs slice(const Scene& scene, int64_t begin, int64_t count) const {
    Inputs part = *this;
    const auto cut = [&](std::vector<float>& values, int64_t row) {
      values = {values.begin() + begin * row, values.begin() + (begin + count) * row};
    };
    cut(part.q, scene.q_row());
    cut(part.latent, scene.latent_row());
    cut(part.query, scene.query_row());
    return part;
  }
};

// Writes the cache and attends.
std::vector<float> run(Context& ctx, Scene& scene, Inputs& in) {
  const MlaShape& s = scene.c.shape;
  const int64_t tokens = scene.meta.num_tokens;
  ctx->attention = &scene.meta;
  std::vector<float> inv_freq, angles(static_cast<size_t>(tokens * s.rope));
  for (int64_t i = 0; i < s.rope / 2; ++i) {
    inv_freq.push_back(
        std::pow(10000.0F, -2.0F * static_cast<float>(i) / static_cast<float>(s.rope)));
  }
  const Tensor cos_sin = matrix(angles, tokens, s.rope);
  ctx->ops->rope_cos_sin(*ctx, inv_freq, 1.5F, cos_sin);
  const Tensor query = matrix(in.query, tokens, scene.query_row());
  ctx->ops->mla_cache_write(*ctx, {.shape = s,
                                   .q = matrix(in.q, tokens, scene.q_row()),
                                   .latent = matrix(in.latent, tokens, scene.latent_row()),
                                   .query = query,
                                   .norm = scene.norm.data(),
                                   .cos_sin = cos_sin,
                                   .cache = scene.cache});
  std::vector<float> out(static_cast<size_t>(tokens * s.num_heads * s.rank), NAN);
  ctx->ops->mla_attention(*ctx, {.shape = s,
                                 .query = query,
                                 .out = matrix(out, tokens, s.num_heads * s.rank),
                                 .scale = 1.0F / std::sqrt(static_cast<float>(s.nope + s.rope)),
                                 .cache = scene.cache});
  return out;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const DType cache : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    all.push_back({{.num_heads = 9, .rank = 512, .rope = 64, .nope = 128}, 16, cache});
    all.push_back({{.num_heads = 3, .rank = 32, .rope = 8, .nope = 16}, 1, cache});
    all.push_back({{.num_heads = 40, .rank = 16, .rope = 2, .nope = 1}, 7, cache});
    all.push_back({{.num_heads = 1, .rank = 136, .rope = 24, .nope = 32}, 256, cache});
    all.push_back({{.num_heads = 5, .rank = 1, .rope = 64, .nope = 7}, 16, cache});
  }
  return all;
}

std::string describe(const Case& c, std::string_view table) {
  return str_format("{}: {} heads, rank {} + {}, block {}, cache {}", table, c.shape.num_heads,
                    c.shape.rank, c.shape.rope, c.block_size, dtype_name(c.cache));
}

// A context that other steps have written.
void fill_cache(Scene& scene) {
  Rng rng(5);
  const DType type = scene.c.cache;
  const auto row = static_cast<size_t>(dtype_bytes(type, scene.latent_row()));
  for (size_t at = 0; at < scene.rows.size(); at += row) {
    auto values =
        random_weight(rng, type == DType::kF32 ? type : DType::kBF16, 1, scene.latent_row());
    if (type == DType::kF8E4M3) {
      for (uint8_t& byte : values) byte &= 0xbf;  // no NaN
    }
    std::copy_n(values.begin(), row, scene.rows.begin() + static_cast<int64_t>(at));
  }
}

TEST(MlaConformance, MatchesReference) {
  const std::vector<Span> spans{{1, 1},   {2, 2},   {17, 17}, {64, 3},   {65, 65},
                                {511, 1}, {512, 2}, {513, 1}, {1030, 9}, {1600, 1}};
  for (const Case& c : cases()) {
    Scene want_scene(c, spans);
    fill_cache(want_scene);
    Inputs want_in(want_scene, want_scene.meta.num_tokens);
    const Inputs given = want_in;
    Context reference(reference_table(), 2);
    const auto want = run(reference, want_scene, want_in);
    for (const auto& table : all_tables()) {
      Scene scene(c, spans);
      fill_cache(scene);
      Inputs in = given;
      Context ctx(*table, 2);
      const auto got = run(ctx, scene, in);
      EXPECT_LE(nmse(in.query, want_in.query), 1e-12) << describe(c, table->name);
      // A cache value next to a rounding boundary may round the other way after another order of
      // sums.
      EXPECT_LE(nmse(got, want), c.cache == DType::kF32 ? 1e-10 : 1e-5) << describe(c, table->name);
    }
  }
}

// The same prompt computed whole and in chunks, beside other sequences, by one thread and by many:
// contexts of several parts are divided among threads in some of these and not in others.
TEST(MlaConformance, SameBitsForAnyDivision) {
  constexpr int64_t kLength = 1100;
  const Case c{{.num_heads = 6, .rank = 40, .rope = 8, .nope = 12}};
  for (const auto& table : all_tables()) {
    Scene whole_scene(c, {{kLength, kLength}});
    const Inputs all(whole_scene, kLength);
    Inputs in = all;
    Context one(*table, 1), many(*table, 7);
    const auto whole = run(one, whole_scene, in);
    const int64_t row = c.shape.num_heads * c.shape.rank;
    // Every chunk of a chunking; of single tokens, those around the ends of parts and blocks.
    for (const int64_t chunk : {1, 64, 500}) {
      for (int64_t begin = 0; begin < kLength; begin += chunk) {
        const int64_t size = std::min(chunk, kLength - begin);
        if (chunk == 1 && begin % 512 > 2 && begin % 512 < 510) {
          continue;
        }
        Scene scene(c, {{begin + size, size}});
        scene.meta.block_tables = whole_scene.block_tables.data();
        scene.meta.slot_mapping = whole_scene.slots.data() + begin;
        scene.cache = whole_scene.cache;
        for (Context* ctx : {&one, &many}) {
          Inputs part = all.slice(scene, begin, size);
          const auto got = run(*ctx, scene, part);
          ASSERT_EQ(0, memcmp(whole.data() + begin * row, got.data(), got.size() * 4))
              << describe(c, table->name) << " chunk " << chunk << " at " << begin;
        }
      }
    }
  }
}

TEST(MlaConformance, PaddingTokensAreZeroAndNotWritten) {
  for (const auto& table : all_tables()) {
    Context ctx(*table);
    const Case c{{.num_heads = 2, .rank = 32, .rope = 8, .nope = 8}};
    Scene scene(c, {{5, 5}});
    scene.positions.resize(8, 0);
    scene.slots.resize(8, -1);
    scene.meta.num_tokens = 8;
    scene.meta.positions = scene.positions.data();
    scene.meta.slot_mapping = scene.slots.data();
    Inputs in(scene, 8);
    const auto out = run(ctx, scene, in);
    for (size_t i = 0; i < out.size(); ++i) {
      EXPECT_TRUE(i < 5 * 64 ? std::isfinite(out[i]) : out[i] == 0.0F) << table->name << " " << i;
    }
    const auto written = scene.rows.size() - static_cast<size_t>(std::count(
                                                 scene.rows.begin(), scene.rows.end(), 0xff));
    EXPECT_LE(written, 5u * 40u * 2u);
  }
}

// A later token whose latent is not a number is nothing to the tokens before it.
TEST(MlaConformance, LaterTokensDoNotLeak) {
  for (const auto& table : all_tables()) {
    Context ctx(*table);
    const Case c{{.num_heads = 3, .rank = 64, .rope = 16, .nope = 8}};
    Scene scene(c, {{40, 40}});
    Inputs in(scene, 40);
    std::fill(in.latent.end() - 80, in.latent.end(), NAN);
    const auto out = run(ctx, scene, in);
    EXPECT_TRUE(std::all_of(out.begin(), out.end() - 192, [](float x) { return std::isfinite(x); }))
        << table->name;
    EXPECT_TRUE(std::all_of(out.end() - 192, out.end(), [](float x) { return std::isnan(x); }))
        << table->name;
  }
}

// --- products per head ---

struct HeadsCase {
  int64_t num_heads, out_features, in_features, x_stride, out_stride;
};

HeadsWeight pack_heads(Context& ctx, const HeadsCase& c, DType dtype, ComputeType compute) {
  HeadsWeight weights{.num_heads = c.num_heads,
                      .out_features = c.out_features,
                      .in_features = c.in_features,
                      .weight = {}};
  Rng rng(3);
  const auto values = random_weight(rng, dtype, c.num_heads * c.out_features, c.in_features);
  const auto row = static_cast<size_t>(dtype_bytes(dtype, c.in_features));
  std::vector<uint8_t> rows(static_cast<size_t>(c.num_heads * weights.row_stride()) * row);
  for (int64_t h = 0; h < c.num_heads; ++h) {
    std::copy_n(values.begin() + h * c.out_features * static_cast<int64_t>(row),
                static_cast<size_t>(c.out_features) * row,
                rows.begin() + h * weights.row_stride() * static_cast<int64_t>(row));
  }
  const WeightPart part{.data = rows.data(),
                        .format = {.dtype = dtype},
                        .rows = c.num_heads * weights.row_stride(),
                        .cols = c.in_features};
  EXPECT_TRUE(ctx->ops->pack_linear(*ctx, {&part, 1}, compute, weights.weight));
  return weights;
}

std::vector<float> run_heads(Context& ctx, const HeadsWeight& weights, const HeadsCase& c,
                             std::vector<float> x) {
  const auto tokens = static_cast<int64_t>(x.size()) / (c.num_heads * c.x_stride);
  std::vector<float> out(static_cast<size_t>(tokens * c.num_heads * c.out_stride), 7.0F);
  ctx->ops->linear_heads(*ctx, weights,
                         {.x = matrix(x, tokens, c.num_heads * c.x_stride),
                          .out = matrix(out, tokens, c.num_heads * c.out_stride),
                          .x_stride = c.x_stride,
                          .out_stride = c.out_stride});
  return out;
}

void check_heads(const CpuOpTable& table, const HeadsCase& c, DType dtype,
                 const std::vector<float>& x, const std::vector<float>& want) {
  Context ctx(table, 3);
  const auto got = run_heads(ctx, pack_heads(ctx, c, dtype, ComputeType::kFloat32), c, x);
  EXPECT_LE(nmse(got, want), 1e-11);
  for (size_t i = 0; i < got.size(); ++i) {
    if (static_cast<int64_t>(i) % c.out_stride >= c.out_features) {
      ASSERT_EQ(got[i], 7.0F) << i;
    }
  }
  const HeadsWeight rounded = pack_heads(ctx, c, dtype, ComputeType::kAuto);
  const auto whole = run_heads(ctx, rounded, c, x);
  EXPECT_LE(nmse(whole, want), 1e-4);
  const int64_t x_row = c.num_heads * c.x_stride;
  for (const int64_t token : {0, 31, 32, 66}) {  // one row alone has the same bits
    const auto one =
        run_heads(ctx, rounded, c, {x.begin() + token * x_row, x.begin() + (token + 1) * x_row});
    ASSERT_EQ(0,
              memcmp(one.data(), whole.data() + token * c.num_heads * c.out_stride, one.size() * 4))
        << "token " << token;
  }
}

TEST(LinearHeadsConformance, MatchesReferenceAndTouchesNothingElse) {
  const HeadsCase all[] = {{16, 512, 128, 192, 576}, {16, 128, 512, 512, 128}, {1, 1, 1, 1, 1},
                           {3, 17, 5, 8, 20},        {4, 136, 16, 24, 160},    {5, 16, 33, 33, 16},
                           {2, 64, 512, 600, 65}};
  for (const HeadsCase& c : all) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      Context reference(reference_table(), 2);
      Rng rng(17);
      const auto x = random_floats(rng, 67 * c.num_heads * c.x_stride);
      const auto want =
          run_heads(reference, pack_heads(reference, c, dtype, ComputeType::kFloat32), c, x);
      for (const auto& table : all_tables()) {
        SCOPED_TRACE(str_format("{}: {} heads of {} by {}", table->name, c.num_heads,
                                c.out_features, c.in_features));
        check_heads(*table, c, dtype, x, want);
      }
    }
  }
}

}  // namespace
}  // namespace atom::conformance
