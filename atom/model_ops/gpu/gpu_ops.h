// The GPU backend's op table. The adapters of this folder turn Tensors into the plain structs of
// kernels/gpu/*.h, take scratch from the step arena, and launch on ctx.stream; they hold no
// arithmetic, never wait and allocate nothing else, so that a step can be captured. They are linked
// into libatom_cuda.so, never into the program. To add an op: its field in ops.h, its line in one
// add_* below.
//
// | File             | Ops                                                          | Kernels |
// |------------------|--------------------------------------------------------------|--------------------|
// | vector_ops.cpp   | embedding, rms_norm, add_rms_norm, silu_mul, rope_cos_sin,   | vector ops |
// |                  | qk_norm_rope_kv_write, gather_rows, fill_random              | | |
// linear_ops.cpp   | linear (bf16, e4m3), quantize_fp8                            | small-M,
// cuBLASLt  | | attention_ops.cpp| begin_step, paged_attention                                  |
// decode and prefill | | backend.cpp      | the table, the context, steps and sampling | step,
// sampler      |
#pragma once

#include "atom/model_ops/gpu_backend.h"
#include "atom/model_ops/ops.h"

namespace atom::gpu {

// What the ops keep between calls; ctx.backend points to it. Made once per model runner, never in a
// step. A file that needs state (a cuBLASLt handle, zeroed counters) adds a pointer here with its
// create and destroy functions.
struct BackendContext {
  GpuContextOptions options;
  DeviceProperties properties;
};

inline BackendContext& context_of(const ExecContext& ctx) {
  return *static_cast<BackendContext*>(ctx.backend);
}

// level: see GpuBackend::op_table.
void add_vector_ops(OpTable& table, int level);
void add_linear_ops(OpTable& table, int level);
void add_attention_ops(OpTable& table, int level);

}  // namespace atom::gpu
