// Everything of a step that is neither a product nor attention: memory-bound kernels that work in
// 16-byte pieces, with f32 arithmetic. Activations are bf16, the residual stream f32 or bf16. Each
// launches on `stream`, allocates nothing, never waits, can be captured, and is chained to the
// kernel before it (primitives/launch.h). Shapes are [rows, columns], row-major and contiguous
// unless a stride is given; pointers are 16-byte aligned, columns a multiple of 8. No result
// depends on the number of rows. To add one: its arguments here, a kernel in vector_ops/, a
// reference row in gpu_kernel_test. C++20.
#pragma once

#include <cstdint>

#include "kernels/common/device_runtime.h"
#include "kernels/common/params.h"

namespace atom::gpu {

// out [num_tokens, hidden_size] = table[ids]; an id outside [0, vocab_size) reads row 0.
struct EmbeddingArgs {
  const int32_t* ids = nullptr;     // [num_tokens]
  const uint16_t* table = nullptr;  // bf16 [vocab_size, hidden_size]
  void* out = nullptr;
  DType out_dtype = DType::kF32;  // f32 or bf16
  int64_t num_tokens = 0;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
};
DeviceStatus embedding(const EmbeddingArgs& args, DeviceStream stream);

// Scales that a product left to whoever reads its result first: the value in (row, column) counts
// times rows[row] * columns[column]. None: the values are whole.
struct OuterScales {
  const float* rows = nullptr;
  const float* columns = nullptr;
};

// out = rms_norm(residual) * weight, after residual += x where x is given. `out_fp8` with
// `out_scales` beside `out` (or instead of it) quantises each row: see quantize_rows.
struct RmsNormArgs {
  const uint16_t* x = nullptr;  // bf16 [num_tokens, hidden_size] or none
  OuterScales x_scales;
  void* residual = nullptr;  // [num_tokens, hidden_size], written only where x is given
  DType residual_dtype = DType::kF32;
  const float* weight = nullptr;  // [hidden_size]
  float eps = 0.0F;
  uint16_t* out = nullptr;      // bf16 [num_tokens, hidden_size]; may be x
  uint8_t* out_fp8 = nullptr;   // e4m3 [num_tokens, hidden_size]
  float* out_scales = nullptr;  // [num_tokens]
  int64_t num_tokens = 0;
  int64_t hidden_size = 0;
};
DeviceStatus rms_norm(const RmsNormArgs& args, DeviceStream stream);

// out[:, i] = silu(gate_up[:, i]) * gate_up[:, size + i]. `out_fp8` with `out_scales` beside
// `out` (or instead of it) quantises each row, of up to 32768 values: see quantize_rows.
struct SiluMulArgs {
  const uint16_t* gate_up = nullptr;  // bf16 [num_tokens, 2 * size]
  OuterScales gate_up_scales;         // rows may be out_scales
  uint16_t* out = nullptr;            // bf16 [num_tokens, size]
  uint8_t* out_fp8 = nullptr;         // e4m3 [num_tokens, size]
  float* out_scales = nullptr;        // [num_tokens]
  int64_t num_tokens = 0;
  int64_t size = 0;
};
DeviceStatus silu_mul(const SiluMulArgs& args, DeviceStream stream);

// cos_sin [num_tokens, 2 * half]: cosines of float(position) * inv_freq, then sines, times scale.
struct RopeCosSinArgs {
  const int32_t* positions = nullptr;  // [num_tokens]
  const float* inv_freq = nullptr;     // [half]
  float* cos_sin = nullptr;
  float scale = 1.0F;
  int64_t num_tokens = 0;
  int64_t half = 0;
};
DeviceStatus rope_cos_sin(const RopeCosSinArgs& args, DeviceStream stream);

// q and k heads are normed (where a weight is given) and rotated; q is written back, k and v go to
// the cache only. Pairs (i, i + rotary_dim / 2) of a head rotate. head_dim is a multiple of 16 up
// to 256, rotary_dim a multiple of 16.
struct QkNormRopeKvWriteArgs {
  uint16_t* qkv = nullptr;  // bf16 [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim]
  OuterScales qkv_scales;
  int64_t num_tokens = 0;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t rotary_dim = 0;
  const float* cos_sin = nullptr;  // [num_tokens, rotary_dim]
  const float* q_norm = nullptr;   // [head_dim] or none
  const float* k_norm = nullptr;
  float norm_eps = 1e-6F;
  const int64_t* slot_mapping = nullptr;  // [num_tokens]; negative: nothing is cached
  PagedKvCache cache;                     // bf16 or e4m3
};
DeviceStatus qk_norm_rope_kv_write(const QkNormRopeKvWriteArgs& args, DeviceStream stream);

// out[i] = x[rows[i]]; a row outside x reads row 0.
struct GatherRowsArgs {
  const uint16_t* x = nullptr;    // bf16 [num_tokens, size]
  const int32_t* rows = nullptr;  // [num_rows]
  uint16_t* out = nullptr;        // bf16 [num_rows, size]
  int64_t num_tokens = 0;
  int64_t num_rows = 0;
  int64_t size = 0;
};
DeviceStatus gather_rows(const GatherRowsArgs& args, DeviceStream stream);

// out e4m3 = x / scale with a scale per row: the row's largest magnitude / 448 (1 for a row of
// zeros). For weights at load and for activations of large fp8 products.
struct QuantizeRowsArgs {
  const uint16_t* x = nullptr;  // bf16 [num_rows, size]
  uint8_t* out = nullptr;       // e4m3 [num_rows, size]
  float* scales = nullptr;      // [num_rows]
  int64_t num_rows = 0;
  int64_t size = 0;
};
DeviceStatus quantize_rows(const QuantizeRowsArgs& args, DeviceStream stream);

// out += bias, in every row.
struct AddBiasArgs {
  const float* bias = nullptr;  // [size]
  void* out = nullptr;          // [num_rows, size]
  DType dtype = DType::kBF16;   // or f32
  int64_t num_rows = 0;
  int64_t size = 0;
};
DeviceStatus add_bias(const AddBiasArgs& args, DeviceStream stream);

// out[i, j] *= row_scales[i] * column_scales[j]
struct ScaleOuterArgs {
  const float* row_scales = nullptr;     // [num_rows]
  const float* column_scales = nullptr;  // [size]
  void* out = nullptr;                   // [num_rows, size]
  DType dtype = DType::kBF16;            // or f32
  int64_t num_rows = 0;
  int64_t size = 0;
};
DeviceStatus scale_outer(const ScaleOuterArgs& args, DeviceStream stream);

// out [count] bf16 = limit * dummy_value(state, i); any count and alignment of 2 bytes.
DeviceStatus fill_random(uint64_t state, float limit, uint16_t* out, int64_t count,
                         DeviceStream stream);

// [count] values; any count, 16-byte aligned pointers.
DeviceStatus cast_bf16_to_f32(const uint16_t* from, float* to, int64_t count, DeviceStream stream);
DeviceStatus cast_f32_to_bf16(const float* from, uint16_t* to, int64_t count, DeviceStream stream);

}  // namespace atom::gpu
