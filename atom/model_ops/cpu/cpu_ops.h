// The CPU backend's op table. Its adapters check shapes, spread rows over threads and call a kernel
// table (kernels/cpu/kernels.h); they hold no arithmetic.
#pragma once

#include <algorithm>
#include <cstdint>

#include "atom/model_ops/ops.h"
#include "kernels/cpu/kernels.h"

namespace atom {

// Every CpuOpTable is its own OpTable: an adapter finds its kernels through ctx.ops.
struct CpuOpTable : OpTable {
  const cpu::Kernels* kernels = nullptr;
};

// The op table over any kernel table, for tests and benchmarks. The kernels outlive it.
CpuOpTable make_cpu_op_table(const cpu::Kernels& kernels);

// linear_ops.cpp
Status pack_linear_cpu(const ExecContext& ctx, std::span<const WeightPart> parts,
                       ComputeType compute, LinearWeight& out);
void linear_cpu(const ExecContext& ctx, const Tensor& x, const LinearWeight& weight,
                const Tensor& out);

// mla_ops.cpp
void mla_cache_write_cpu(const ExecContext& ctx, const MlaCacheWriteParams& params);
void mla_attention_cpu(const ExecContext& ctx, const MlaAttentionParams& params);
void linear_heads_cpu(const ExecContext& ctx, const HeadsWeight& weights,
                      const LinearHeadsParams& params);

// moe_ops.cpp
void route_cpu(const ExecContext& ctx, const RouterParams& params);
void fused_experts_cpu(const ExecContext& ctx, const ExpertsWeight& experts,
                       const FusedExpertsParams& params);

inline const cpu::Kernels& kernels_of(const ExecContext& ctx) {
  return *static_cast<const CpuOpTable*>(ctx.ops)->kernels;
}

// Below this many elements a loop costs less than waking a thread.
inline constexpr int64_t kMinParallelElements = 16384;

inline int64_t min_rows(int64_t elements_per_row) {
  return std::max<int64_t>(1, kMinParallelElements / std::max<int64_t>(1, elements_per_row));
}

// Runs body(cpu::Range) over [0, count) in about `per_thread` ranges per thread, none below
// `min_size`.
template <class Body>
void parallel_ranges(const ExecContext& ctx, int64_t count, int64_t min_size, const Body& body) {
  const int64_t wanted = int64_t{ctx.parallel.num_threads} * 4;
  const int64_t size = std::max({min_size, (count + wanted - 1) / wanted, int64_t{1}});
  ctx.parallel((count + size - 1) / size, [&](int64_t i) {
    body(cpu::Range{.begin = i * size, .end = std::min(count, (i + 1) * size)});
  });
}

}  // namespace atom
