// The GPU backend's op table. The adapters of this folder turn Tensors into the plain structs of
// kernels/gpu/*.h, take scratch from the step arena, and launch on ctx.stream; they hold no
// arithmetic, never wait and allocate nothing else, so that a step can be captured. They are linked
// into libatom_cuda.so, never into the program. To add an op: its field in ops.h, its line in one
// add_* below.
//
// vector_ops.cpp     embedding, norms, silu_mul, rope, cache write, gather_rows, fill_random,
//                    quantize_fp8                                    (kernels/gpu/vector_ops.h)
// linear_ops.cpp     linear                                          (kernels/gpu/linear.h)
// attention_ops.cpp  paged_attention      (kernels/gpu/attention.h, portable_attention.h)
// moe_ops.cpp        route, fused_experts, norm_route               (kernels/gpu/moe.h)
// mla_ops.cpp        mla_cache_write, mla_attention, linear_heads, mla_queries, mla_values
//                                                                     (kernels/gpu/mla.h)
// backend.cpp        the table, the context, steps and sampling      (step.h, sampler.h)
#pragma once

#include <memory>
#include <vector>

#include "atom/core/buffer.h"
#include "atom/model_ops/gpu_backend.h"
#include "atom/model_ops/ops.h"
#include "kernels/gpu/linear.h"
#include "kernels/gpu/runtime.h"
#include "kernels/gpu/vector_ops.h"

namespace atom::gpu {

// What the ops keep between calls; ctx.backend points to it. Made once per model runner, never in a
// step.
struct BackendContext {
  GpuContextOptions options;
  DeviceProperties properties;
  bool use_split_attention = false;  // the model fits decode_attention and prefill_attention
  Buffer attention_workspace;
  LinearContext* linear = nullptr;
  // The result of linear_for_next that waits for its reader, and what that has to apply.
  const void* unscaled = nullptr;
  OuterScales left_scales;
  std::vector<float> inv_freq;  // what inv_freq_device holds
  Buffer inv_freq_device;
  Buffer moe_counter;  // i32, see NormRouteArgs

  BackendContext() = default;
  ~BackendContext() {
    if (linear != nullptr) {
      destroy_linear_context(linear);
    }
  }
  BackendContext(const BackendContext&) = delete;
  BackendContext& operator=(const BackendContext&) = delete;
};

inline BackendContext& context_of(const ExecContext& ctx) {
  return *static_cast<BackendContext*>(ctx.backend);
}

// What the op that reads `x` has to apply, where linear_for_next wrote it.
inline OuterScales scales_left_for(const ExecContext& ctx, const void* x) {
  const BackendContext& context = context_of(ctx);
  return context.unscaled == x ? context.left_scales : OuterScales{};
}

QkNormRopeKvWriteArgs rope_arguments(const ExecContext& ctx, const QkNormRopeKvWriteParams& params);

// level: see GpuBackend::op_table.
void add_vector_ops(OpTable& table, int level);
void add_linear_ops(OpTable& table, int level);
void add_attention_ops(OpTable& table, int level);
void add_moe_ops(OpTable& table, int level);
void add_mla_ops(OpTable& table, int level);

// Whether the kernels take the model, and their memory; nullptr, or what is wrong.
DeviceStatus prepare_vector_ops(BackendContext& context);
DeviceStatus prepare_linear_ops(BackendContext& context);
DeviceStatus prepare_attention_ops(BackendContext& context);
DeviceStatus prepare_moe_ops(BackendContext& context);

}  // namespace atom::gpu
