// Declarations of the reference kernels; contracts are in kernels/cpu/kernels.h.
#pragma once

#include "kernels/cpu/kernels.h"

namespace atom::cpu::reference {

int64_t packed_bytes(int32_t kernel, const DataFormat& format, int64_t rows, int64_t cols);
int32_t choose_linear(const DataFormat& format, int64_t cols, bool exact_activations);
void pack(int32_t kernel, const PackArgs& args, Range panels);
int64_t input_bytes(int32_t kernel, int64_t num_tokens, int64_t cols);
void prepare_input(int32_t kernel, const LinearArgs& args, uint8_t* out, Range tokens);
void linear(int32_t kernel, const LinearArgs& args, Range tokens, Range panels);
void rms_norm(const RmsNormArgs& args, Range tokens);
void silu_mul(const float* gate_up, float* out, int64_t n, Range tokens);
void qk_norm_rope_kv_write(const QkvArgs& args, Range tokens);
void attention(const AttentionArgs& args, const AttentionItem& item);

void mla_cache_write(const MlaCacheWriteArgs& args, Range tokens);
void mla_attention(const MlaAttentionArgs& args, const MlaItem& item);

// out [size] = x / rms(x) * weight
void norm_row(const float* x, const float* weight, float eps, int64_t size, float* out);

// One row of `size` values of the KV cache, as f32 times `scale`, and back.
void load_cache_row(DType dtype, const void* row, int64_t size, float scale, float* out);
void store_cache_row(DType dtype, const float* values, int64_t size, float scale, void* row);

}  // namespace atom::cpu::reference
