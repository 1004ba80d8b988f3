#include "atom/model_ops/cpu/cpu_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "atom/model_ops/cpu/sampler_ops.h"
#include "kernels/common/convert.h"
#include "kernels/common/dummy.h"

namespace atom {
namespace {

void embedding(const ExecContext& ctx, const Tensor& ids, const Tensor& table, const Tensor& out) {
  const int64_t size = table.dim(1);
  ATOM_CHECK(out.dim(0) == ids.dim(0) && out.dim(1) == size) << out.dim(0) << " x " << out.dim(1);
  const auto* rows = table.data_as<const uint8_t>();
  const int64_t row_bytes = dtype_bytes(table.dtype(), size);
  parallel_ranges(ctx, ids.dim(0), min_rows(size), [&](cpu::Range tokens) {
    for (int64_t m = tokens.begin; m < tokens.end; ++m) {
      const int32_t id = ids.data_as<const int32_t>()[m];
      ATOM_CHECK(id >= 0 && id < table.dim(0)) << "token " << id << " of " << table.dim(0);
      cpu::dequantize(table.dtype(), rows + id * row_bytes, 0, size,
                      out.data_as<float>() + m * size);
    }
  });
}

void run_norm(const ExecContext& ctx, const cpu::RmsNormArgs& args, int64_t num_tokens) {
  parallel_ranges(ctx, num_tokens, min_rows(args.hidden_size),
                  [&](cpu::Range tokens) { kernels_of(ctx).rms_norm(args, tokens); });
}

void rms_norm(const ExecContext& ctx, const Tensor& x, const float* weight, float eps,
              const Tensor& out) {
  ATOM_CHECK(x.dim(1) == out.dim(1) && x.dim(0) == out.dim(0)) << x.dim(0) << " x " << x.dim(1);
  run_norm(ctx,
           {.x = x.data_as<float>(),
            .weight = weight,
            .eps = eps,
            .out = out.data_as<float>(),
            .hidden_size = x.dim(1)},
           x.dim(0));
}

void add_rms_norm(const ExecContext& ctx, const Tensor& x, const Tensor& residual,
                  const float* weight, float eps, const Tensor& out) {
  ATOM_CHECK(x.dim(1) == out.dim(1) && x.dim(1) == residual.dim(1)) << x.dim(1);
  run_norm(ctx,
           {.x = x.data_as<float>(),
            .residual = residual.data_as<float>(),
            .weight = weight,
            .eps = eps,
            .out = out.data_as<float>(),
            .hidden_size = x.dim(1)},
           x.dim(0));
}

void norm_concat(const ExecContext& ctx, const Tensor& a, const float* a_weight, const Tensor& b,
                 const float* b_weight, float eps, const Tensor& out) {
  const int64_t size = a.dim(1);
  ATOM_CHECK(b.dim(1) == size && out.dim(1) == 2 * size) << size << " and " << b.dim(1);
  parallel_ranges(ctx, a.dim(0), min_rows(size), [&](cpu::Range tokens) {
    for (int64_t m = tokens.begin; m < tokens.end; ++m) {
      float* row = out.data_as<float>() + m * 2 * size;
      cpu::RmsNormArgs args{.x = a.data_as<float>() + m * size,
                            .weight = a_weight,
                            .eps = eps,
                            .out = row,
                            .hidden_size = size};
      kernels_of(ctx).rms_norm(args, {0, 1});
      args.x = b.data_as<float>() + m * size;
      args.weight = b_weight;
      args.out = row + size;
      kernels_of(ctx).rms_norm(args, {0, 1});
    }
  });
}

void silu_mul(const ExecContext& ctx, const Tensor& gate_up, const Tensor& out) {
  const int64_t n = out.dim(1);
  ATOM_CHECK(gate_up.dim(1) == 2 * n && gate_up.dim(0) == out.dim(0))
      << gate_up.dim(1) << " and " << n;
  parallel_ranges(ctx, out.dim(0), min_rows(n), [&](cpu::Range tokens) {
    kernels_of(ctx).silu_mul(gate_up.data_as<float>(), out.data_as<float>(), n, tokens);
  });
}

void rope_cos_sin(const ExecContext& ctx, std::span<const float> inv_freq, float scale,
                  const Tensor& cos_sin) {
  const auto half = static_cast<int64_t>(inv_freq.size());
  const int32_t* positions = ctx.attention->positions;
  parallel_ranges(ctx, cos_sin.dim(0), min_rows(16 * half), [&](cpu::Range tokens) {
    for (int64_t m = tokens.begin; m < tokens.end; ++m) {
      float* row = cos_sin.data_as<float>() + m * 2 * half;
      for (int64_t i = 0; i < half; ++i) {
        const float angle = static_cast<float>(positions[m]) * inv_freq[static_cast<size_t>(i)];
        row[i] = std::cos(angle) * scale;
        row[half + i] = std::sin(angle) * scale;
      }
    }
  });
}

void qk_norm_rope_kv_write(const ExecContext& ctx, const QkNormRopeKvWriteParams& params) {
  const int64_t heads = params.num_heads + 2 * params.num_kv_heads;
  ATOM_CHECK(params.qkv.dim(1) == heads * params.head_dim) << params.qkv.dim(1);
  ATOM_CHECK(params.rotary_dim <= params.head_dim && params.rotary_dim % 2 == 0)
      << params.rotary_dim;
  const cpu::QkvArgs args{.qkv = params.qkv.data_as<float>(),
                          .num_heads = params.num_heads,
                          .num_kv_heads = params.num_kv_heads,
                          .head_dim = params.head_dim,
                          .rotary_dim = params.rotary_dim,
                          .cos_sin = params.cos_sin.data_as<float>(),
                          .q_norm = params.q_norm,
                          .k_norm = params.k_norm,
                          .norm_eps = params.norm_eps,
                          .slot_mapping = ctx.attention->slot_mapping,
                          .cache = params.cache};
  parallel_ranges(ctx, params.qkv.dim(0), min_rows(params.qkv.dim(1)),
                  [&](cpu::Range tokens) { kernels_of(ctx).qk_norm_rope_kv_write(args, tokens); });
}

// Work items are numbered sequence by sequence, token tile by token tile, kv head by kv head. Where
// each sequence's items begin is written once per call: finding it anew for every item is quadratic
// in the batch.
struct AttentionPlan {
  const AttentionMetadata& meta;
  int64_t num_kv_heads;
  int64_t tile;              // query tokens per item
  std::span<int64_t> begin;  // [num_seqs + 1] first item of each sequence

  int64_t number_items() const {
    begin[0] = 0;
    for (int64_t s = 0; s < meta.num_seqs; ++s) {
      const int64_t tokens = meta.query_start[s + 1] - meta.query_start[s];
      const auto at = static_cast<size_t>(s);
      begin[at + 1] = begin[at] + (tokens + tile - 1) / tile * num_kv_heads;
    }
    return begin.back();
  }
  cpu::AttentionItem item(int64_t index) const {
    const int64_t sequence =
        std::upper_bound(begin.begin(), begin.end(), index) - begin.begin() - 1;
    const int64_t within = index - begin[static_cast<size_t>(sequence)];
    const int64_t first = meta.query_start[sequence] + within / num_kv_heads * tile;
    return {.sequence = sequence,
            .kv_head = within % num_kv_heads,
            .tokens = {first, std::min<int64_t>(first + tile, meta.query_start[sequence + 1])}};
  }
};

void paged_attention(const ExecContext& ctx, const PagedAttentionParams& params) {
  const AttentionMetadata& meta = *ctx.attention;
  ATOM_CHECK(params.head_dim <= cpu::kMaxHeadDim) << params.head_dim;
  ATOM_CHECK(params.num_heads % params.num_kv_heads == 0) << params.num_heads;
  const cpu::AttentionArgs args{.qkv = params.qkv.data_as<float>(),
                                .qkv_stride = params.qkv.dim(1),
                                .out = params.out.data_as<float>(),
                                .num_heads = params.num_heads,
                                .num_kv_heads = params.num_kv_heads,
                                .head_dim = params.head_dim,
                                .scale = params.scale,
                                .sliding_window = params.sliding_window,
                                .sinks = params.sinks,
                                .cache = params.cache,
                                .metadata = meta};
  const int64_t scratch = ctx.arena->mark();
  const Tensor begin = ctx.arena->allocate(DType::kI64, {meta.num_seqs + 1});
  const AttentionPlan plan{
      .meta = meta,
      .num_kv_heads = params.num_kv_heads,
      .tile = 16,
      .begin = {begin.data_as<int64_t>(), static_cast<size_t>(meta.num_seqs + 1)}};
  ctx.parallel(plan.number_items(),
               [&](int64_t i) { kernels_of(ctx).attention(args, plan.item(i)); });
  ctx.arena->rewind(scratch);
  // Padding tokens belong to no sequence.
  const int64_t used = meta.num_seqs == 0 ? 0 : meta.query_start[meta.num_seqs];
  const int64_t row = params.out.dim(1);
  std::fill_n(params.out.data_as<float>() + used * row, (params.out.dim(0) - used) * row, 0.0F);
}

void fill_random(const ExecContext& ctx, uint64_t state, float limit, const Tensor& out) {
  parallel_ranges(ctx, out.dim(0), kMinParallelElements, [&](cpu::Range values) {
    for (int64_t i = values.begin; i < values.end; ++i) {
      out.data_as<uint16_t>()[i] =
          f32_to_bf16(dummy_value(state, static_cast<uint64_t>(i)) * limit);
    }
  });
}

void gather_rows(const ExecContext&, const Tensor& x, const Tensor& rows, const Tensor& out) {
  const int64_t size = x.dim(1);
  for (int64_t i = 0; i < rows.dim(0); ++i) {
    const int32_t row = rows.data_as<const int32_t>()[i];
    ATOM_CHECK(row >= 0 && row < x.dim(0)) << "row " << row << " of " << x.dim(0);
    std::memcpy(out.data_as<float>() + i * size, x.data_as<float>() + row * size,
                static_cast<size_t>(size) * sizeof(float));
  }
}

}  // namespace

CpuOpTable make_cpu_op_table(const cpu::Kernels& kernels) {
  CpuOpTable table;
  table.name = kernels.name;
  table.max_head_dim = cpu::kMaxHeadDim;
  table.pack_linear = pack_linear_cpu;
  table.linear = linear_cpu;
  table.embedding = embedding;
  table.rms_norm = rms_norm;
  table.add_rms_norm = add_rms_norm;
  table.norm_concat = norm_concat;
  table.silu_mul = silu_mul;
  table.rope_cos_sin = rope_cos_sin;
  table.qk_norm_rope_kv_write = qk_norm_rope_kv_write;
  table.paged_attention = paged_attention;
  table.max_latent_rank = cpu::kMaxLatentRank;
  table.max_latent_rope = cpu::kMaxLatentRope;
  table.mla_cache_write = mla_cache_write_cpu;
  table.mla_attention = mla_attention_cpu;
  table.linear_heads = linear_heads_cpu;
  table.route = route_cpu;
  table.fused_experts = fused_experts_cpu;
  table.fill_random = fill_random;
  table.gather_rows = gather_rows;
  table.sample = sample_cpu;
  table.token_logprobs = token_logprobs_cpu;
  table.kernels = &kernels;
  return table;
}

const OpTable& cpu_op_table(int level) {
  static const CpuOpTable reference = make_cpu_op_table(cpu::reference_kernels());
  static const CpuOpTable best = make_cpu_op_table(cpu::best_kernels());
  return level == 0 ? reference : best;
}

}  // namespace atom
