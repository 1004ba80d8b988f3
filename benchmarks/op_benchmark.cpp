// Speed of the CPU kernels by op, weight format and instruction set, next to the roofs of this
// processor measured in the same run. CPU time of one thread, best of several repetitions, so that
// a loaded machine disturbs it little (shared caches and memory still do).
//   op_benchmark [--isa NAME] [--tokens N] [--op linear|attention|mla]
// GB/s counts packed weight bytes; GFLOP/s counts 2 * tokens * rows * cols.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "atom/model_ops/cpu/cpu_ops.h"

namespace {

using atom::DType;

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Best CPU seconds of one call, over about 0.3 s.
template <class Body>
double best_seconds(const Body& body) {
  double best = 1e9;
  double total = 0;
  for (int i = 0; i < 3 || total < 0.3; ++i) {
    const double start = cpu_seconds();
    body();
    const double seconds = cpu_seconds() - start;
    best = std::min(best, seconds);
    total += seconds;
  }
  return best;
}

// The read roof: 64 MiB, four streams, summed.
double read_roof() {
  constexpr size_t kWords = size_t{8} << 20;
  std::vector<uint64_t> data(kWords, 1);
  uint64_t sum[4] = {};
  const double seconds = best_seconds([&] {
    for (size_t i = 0; i < kWords / 4; i += 8) {
      for (size_t stream = 0; stream < 4; ++stream) {
        const uint64_t* p = data.data() + stream * (kWords / 4) + i;
        sum[stream] += p[0] ^ p[1] ^ p[2] ^ p[3] ^ p[4] ^ p[5] ^ p[6] ^ p[7];
      }
    }
    asm volatile("" ::"r"(sum) : "memory");
  });
  return static_cast<double>(kWords * 8) / seconds * 1e-9;
}

#if defined(__x86_64__)
// Giga-operations per second of one vector instruction that does `ops` operations, 12 independent
// sums.
#define ATOM_ROOF(name, target_isa, instruction, ops)                                             \
  __attribute__((target(target_isa))) double name() {                                             \
    constexpr int64_t kLoops = 2000000;                                                           \
    const double seconds = best_seconds([&]() __attribute__((target(target_isa))) {               \
      for (int64_t i = 0; i < kLoops; ++i) {                                                      \
        asm volatile(                                                                             \
            instruction                                                                           \
            " %%zmm30, %%zmm31, %%zmm0\n" instruction " %%zmm30, %%zmm31, %%zmm1\n" instruction   \
            " %%zmm30, %%zmm31, %%zmm2\n" instruction " %%zmm30, %%zmm31, %%zmm3\n" instruction   \
            " %%zmm30, %%zmm31, %%zmm4\n" instruction " %%zmm30, %%zmm31, %%zmm5\n" instruction   \
            " %%zmm30, %%zmm31, %%zmm6\n" instruction " %%zmm30, %%zmm31, %%zmm7\n" instruction   \
            " %%zmm30, %%zmm31, %%zmm8\n" instruction " %%zmm30, %%zmm31, %%zmm9\n" instruction   \
            " %%zmm30, %%zmm31, %%zmm10\n" instruction " %%zmm30, %%zmm31, %%zmm11\n" ::          \
                : "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "zmm8", "zmm9", \
                  "zmm10", "zmm11");                                                              \
      }                                                                                           \
    });                                                                                           \
    return static_cast<double>(kLoops) * 12 * (ops) / seconds * 1e-9;                             \
  }
ATOM_ROOF(fma_roof, "avx512f", "vfmadd231ps", 32)
ATOM_ROOF(vnni_roof, "avx512f,avx512vnni", "vpdpbusd", 128)
ATOM_ROOF(bf16_roof, "avx512f,avx512bf16", "vdpbf16ps", 64)
#undef ATOM_ROOF

#if defined(__linux__)
// Giga-operations per second of one AMX instruction over full tiles, 4 independent sums of 16 x 16.
#define ATOM_TILE_ROOF(name, dot, ops)                                             \
  __attribute__((target("amx-tile,amx-int8,amx-bf16"))) double name() {            \
    struct alignas(64) {                                                           \
      uint8_t palette[16] = {1};                                                   \
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};                   \
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};                         \
    } config;                                                                      \
    asm volatile("ldtilecfg %0" ::"m"(config));                                    \
    constexpr int64_t kLoops = 200000;                                             \
    const double seconds = best_seconds([] {                                       \
      for (int64_t i = 0; i < kLoops; ++i) {                                       \
        asm volatile(dot " %tmm6, %tmm4, %tmm0\n" dot " %tmm7, %tmm4, %tmm1\n" dot \
                         " %tmm6, %tmm5, %tmm2\n" dot " %tmm7, %tmm5, %tmm3\n");   \
      }                                                                            \
    });                                                                            \
    asm volatile("tilerelease");                                                   \
    return static_cast<double>(kLoops) * 4 * (ops) / seconds * 1e-9;               \
  }
ATOM_TILE_ROOF(tile_int8_roof, "tdpbsud", 2 * 16 * 16 * 64)
ATOM_TILE_ROOF(tile_bf16_roof, "tdpbf16ps", 2 * 16 * 16 * 32)
#undef ATOM_TILE_ROOF
#endif
#endif

void print_roofs(bool tiles) {
  std::printf("roofs, one core: read 64 MiB %.1f GB/s", read_roof());
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) std::printf(", f32 FMA %.0f GFLOP/s", fma_roof());
  if (__builtin_cpu_supports("avx512vnni")) std::printf(", int8 dot %.0f GOP/s", vnni_roof());
  if (__builtin_cpu_supports("avx512bf16")) std::printf(", bf16 dot %.0f GFLOP/s", bf16_roof());
#endif
#if defined(__linux__)
  if (tiles)
    std::printf(", AMX int8 %.0f GOP/s, bf16 %.0f GFLOP/s", tile_int8_roof(), tile_bf16_roof());
#endif
  std::printf("\n");
}

struct LinearRow {
  atom::DataFormat format;
  atom::ComputeType compute;
  int64_t rows, cols, tokens;
};

void bench_linear(atom::ExecContext& ctx, const LinearRow& row) {
  const DType dtype = row.format.dtype;
  std::vector<uint8_t> bytes(static_cast<size_t>(row.rows * atom::row_bytes(dtype, row.cols)),
                             0x11);
  const std::vector<uint8_t> scales(
      static_cast<size_t>(row.rows * atom::scales_per_row(row.format, row.cols) * 4), 0x3c);
  const atom::WeightPart part{.data = bytes.data(),
                              .format = row.format,
                              .rows = row.rows,
                              .cols = row.cols,
                              .scales = scales.data()};
  atom::LinearWeight weight;
  const double pack_seconds = best_seconds([&] {
    if (!ctx.ops->pack_linear(ctx, {&part, 1}, row.compute, weight)) std::abort();
  });
  std::vector<float> x(static_cast<size_t>(row.tokens * row.cols), 0.5F);
  std::vector<float> out(static_cast<size_t>(row.tokens * row.rows));
  const double seconds = best_seconds([&] {
    ctx.ops->linear(ctx, atom::Tensor(x.data(), DType::kF32, {row.tokens, row.cols}), weight,
                    atom::Tensor(out.data(), DType::kF32, {row.tokens, row.rows}));
  });
  std::printf(
      "  linear %-8s %-5s [%6ld, %5ld] x %4ld: %9.1f us  %6.1f GB/s  %6.1f GFLOP/s  pack %.1f "
      "GB/s\n",
      atom::dtype_name(dtype), row.compute == atom::ComputeType::kFloat32 ? "exact" : "auto",
      static_cast<long>(row.rows), static_cast<long>(row.cols), static_cast<long>(row.tokens),
      seconds * 1e6, static_cast<double>(weight.packed.size()) / seconds * 1e-9,
      2e-9 * static_cast<double>(row.tokens * row.rows * row.cols) / seconds,
      static_cast<double>(bytes.size()) / pack_seconds * 1e-9);
}

void bench_format(atom::ExecContext& ctx, const atom::DataFormat& format, int64_t cols,
                  int64_t tokens) {
  bench_linear(ctx, {format, atom::ComputeType::kAuto, 49152, cols, 1});
  bench_linear(ctx, {format, atom::ComputeType::kAuto, 3072, cols, 1});
  bench_linear(ctx, {format, atom::ComputeType::kAuto, 3072, cols, tokens});
  bench_linear(ctx, {format, atom::ComputeType::kFloat32, 3072, cols, tokens});
}

// FP8 per channel and in blocks, INT8 per channel, INT4 in groups, MXFP4.
constexpr atom::DataFormat kScaledFormats[] = {
    {.dtype = DType::kF8E4M3, .block_n = 1, .block_k = -1},
    {.dtype = DType::kF8E4M3, .block_n = 1, .block_k = 128},
    {.dtype = DType::kI8, .block_n = 1, .block_k = -1},
    {.dtype = DType::kU4, .block_n = 1, .block_k = 128, .scale_dtype = DType::kBF16},
    {.dtype = DType::kU4, .block_n = 1, .block_k = 32, .scale_dtype = DType::kBF16},
    {.dtype = DType::kF4E2M1, .block_n = 1, .block_k = 32, .scale_dtype = DType::kF8E8M0}};

void bench_linears(atom::ExecContext& ctx, int64_t tokens) {
  for (const DType dtype : {DType::kQ4_1, DType::kQ4_0, DType::kQ8_0, DType::kQ4_K, DType::kQ6_K,
                            DType::kBF16, DType::kF16, DType::kF32}) {
    bench_format(ctx, {.dtype = dtype}, atom::dtype_info(dtype).block_size == 256 ? 512 : 576,
                 tokens);
  }
  for (const atom::DataFormat& format : kScaledFormats) {
    bench_format(ctx, format, 576, tokens);
  }
}

void bench_attention(atom::ExecContext& ctx, int64_t context, int64_t query) {
  constexpr int64_t kHeads = 9, kKvHeads = 3, kDim = 64, kBlock = 16;
  const int64_t blocks = (context + kBlock - 1) / kBlock;
  std::vector<int32_t> table(static_cast<size_t>(blocks));
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
  const std::vector<int32_t> starts{0, static_cast<int32_t>(query)},
      lens{static_cast<int32_t>(context)};
  std::vector<uint16_t> k(static_cast<size_t>(blocks * kBlock * kKvHeads * kDim), 0x3c00), v(k);
  const atom::AttentionMetadata meta{.num_tokens = query,
                                     .num_seqs = 1,
                                     .block_size = kBlock,
                                     .block_table_stride = blocks,
                                     .query_start = starts.data(),
                                     .context_lens = lens.data(),
                                     .block_tables = table.data()};
  ctx.attention = &meta;
  std::vector<float> qkv(static_cast<size_t>(query * (kHeads + 2 * kKvHeads) * kDim), 0.1F);
  std::vector<float> out(static_cast<size_t>(query * kHeads * kDim));
  const double seconds = best_seconds([&] {
    ctx.ops->paged_attention(
        ctx, {.qkv = atom::Tensor(qkv.data(), DType::kF32, {query, (kHeads + 2 * kKvHeads) * kDim}),
              .out = atom::Tensor(out.data(), DType::kF32, {query, kHeads * kDim}),
              .num_heads = kHeads,
              .num_kv_heads = kKvHeads,
              .head_dim = kDim,
              .scale = 0.125F,
              .cache = {.k = k.data(),
                        .v = v.data(),
                        .dtype = DType::kBF16,
                        .num_blocks = blocks,
                        .num_kv_heads = kKvHeads,
                        .block_size = kBlock,
                        .head_dim = kDim}});
  });
  const double flops = 4.0 * kHeads * kDim * static_cast<double>(query) *
                       (static_cast<double>(context) - static_cast<double>(query - 1) / 2);
  std::printf("  attention 9/3 heads of 64, context %5ld, query %4ld: %9.1f us  %6.1f GFLOP/s\n",
              static_cast<long>(context), static_cast<long>(query), seconds * 1e6,
              flops / seconds * 1e-9);
}

// Latent attention of DeepSeek-V2-Lite (16 heads) and V3 (128): GB/s of cached rows, and the
// products per head around it.
void bench_mla(atom::ExecContext& ctx, int64_t heads, int64_t context, int64_t query) {
  constexpr int64_t kBlock = 16;
  const atom::MlaShape shape{.num_heads = heads, .rank = 512, .rope = 64, .nope = 128};
  const int64_t row = shape.rank + shape.rope;
  const int64_t blocks = (context + kBlock - 1) / kBlock;
  std::vector<int32_t> table(static_cast<size_t>(blocks));
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
  const std::vector<int32_t> starts{0, static_cast<int32_t>(query)},
      lens{static_cast<int32_t>(context)};
  std::vector<uint16_t> rows(static_cast<size_t>(blocks * kBlock * row), 0x3c00);
  const atom::AttentionMetadata meta{.num_tokens = query,
                                     .num_seqs = 1,
                                     .block_size = kBlock,
                                     .block_table_stride = blocks,
                                     .query_start = starts.data(),
                                     .context_lens = lens.data(),
                                     .block_tables = table.data()};
  ctx.attention = &meta;
  std::vector<float> queries(static_cast<size_t>(query * heads * row), 0.1F);
  std::vector<float> out(static_cast<size_t>(query * heads * shape.rank));
  const double seconds = best_seconds([&] {
    ctx.ops->mla_attention(
        ctx, {.shape = shape,
              .query = atom::Tensor(queries.data(), DType::kF32, {query, heads * row}),
              .out = atom::Tensor(out.data(), DType::kF32, {query, heads * shape.rank}),
              .scale = 0.07F,
              .cache = {.k = rows.data(),
                        .dtype = DType::kBF16,
                        .num_blocks = blocks,
                        .num_kv_heads = 1,
                        .block_size = kBlock,
                        .head_dim = row}});
  });
  const double pairs = static_cast<double>(heads * query) *
                       (static_cast<double>(context) - static_cast<double>(query - 1) / 2);
  std::printf(
      "  latent attention, %3ld heads of 512 + 64, context %5ld, query %4ld: %9.1f us  %6.1f "
      "GFLOP/s\n",
      static_cast<long>(heads), static_cast<long>(context), static_cast<long>(query), seconds * 1e6,
      2.0 * static_cast<double>(row + shape.rank) * pairs / seconds * 1e-9);
}

void bench_linear_heads(atom::ExecContext& ctx, int64_t tokens) {
  atom::HeadsWeight weights{.num_heads = 16, .out_features = 512, .in_features = 128, .weight = {}};
  const int64_t rows = weights.num_heads * weights.row_stride();
  const std::vector<uint16_t> values(static_cast<size_t>(rows * weights.in_features), 0x3c00);
  const atom::WeightPart part{.data = values.data(),
                              .format = {.dtype = DType::kBF16},
                              .rows = rows,
                              .cols = weights.in_features};
  if (!ctx.ops->pack_linear(ctx, {&part, 1}, atom::ComputeType::kAuto, weights.weight)) {
    std::abort();
  }
  std::vector<float> x(static_cast<size_t>(tokens * 16 * 192), 0.5F);
  std::vector<float> out(static_cast<size_t>(tokens * 16 * 576));
  const double seconds = best_seconds([&] {
    ctx.ops->linear_heads(ctx, weights,
                          {.x = atom::Tensor(x.data(), DType::kF32, {tokens, 16 * 192}),
                           .out = atom::Tensor(out.data(), DType::kF32, {tokens, 16 * 576}),
                           .x_stride = 192,
                           .out_stride = 576});
  });
  std::printf(
      "  products of 16 heads [512, 128] bf16 x %4ld: %9.1f us  %6.1f GB/s  %6.1f GFLOP/s\n",
      static_cast<long>(tokens), seconds * 1e6,
      static_cast<double>(weights.weight.packed.size()) / seconds * 1e-9,
      2e-9 * static_cast<double>(tokens * rows * weights.in_features) / seconds);
}

}  // namespace

int main(int argc, char** argv) {
  std::string only, op;
  int64_t tokens = 128;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--isa") == 0) only = argv[i + 1];
    if (std::strcmp(argv[i], "--op") == 0) op = argv[i + 1];
    if (std::strcmp(argv[i], "--tokens") == 0) tokens = std::atol(argv[i + 1]);
  }
  const atom::cpu::KernelTables found = atom::cpu::available_kernels();
  print_roofs(std::strcmp(found.tables[found.count - 1]->name, "amx") == 0);
  if (only.empty()) only = found.tables[found.count - 1]->name;
  atom::Arena arena(std::move(*atom::Buffer::allocate(int64_t{256} << 20)));
  for (int i = 0; i < found.count; ++i) {
    if (only != found.tables[i]->name && only != "all") continue;
    const atom::CpuOpTable table = atom::make_cpu_op_table(*found.tables[i]);
    atom::ExecContext ctx{.ops = &table, .arena = &arena};
    std::printf("%s\n", found.tables[i]->name);
    if (op.empty() || op == "linear") bench_linears(ctx, tokens);
    if (op.empty() || op == "attention") {
      bench_attention(ctx, 512, 512);
      bench_attention(ctx, 512, 1);
      bench_attention(ctx, 4096, 1);
    }
    if (op.empty() || op == "mla") {
      for (const int64_t heads : {16, 128}) {
        bench_mla(ctx, heads, 512, 1);
        bench_mla(ctx, heads, 4096, 1);
        bench_mla(ctx, heads, 512, 128);
      }
      for (const int64_t rows : {int64_t{1}, int64_t{16}, tokens}) bench_linear_heads(ctx, rows);
    }
  }
  return 0;
}
