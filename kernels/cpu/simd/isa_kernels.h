// Declarations of one instruction set's kernels; contracts are in kernels/cpu/kernels.h, weight
// layouts in panel_layout.h. Included with ATOM_ISA defined.
#pragma once

#include "kernels/cpu/kernels.h"

namespace atom::cpu::ATOM_ISA {

void linear_f32(const LinearArgs& args, Range tokens, Range panels);
void linear_bf16(const LinearArgs& args, Range tokens, Range panels);
void linear_bf16_tiles(const LinearArgs& args, Range tokens, Range panels);
void linear_int16(const LinearArgs& args, Range tokens, Range panels);
void linear_int8(const LinearArgs& args, Range tokens, Range panels);
void linear_f8(const LinearArgs& args, Range tokens, Range panels);
void prepare_int8(const float* x, int64_t num_tokens, int64_t cols, uint8_t* out, Range tokens);
void prepare_bf16(const float* x, int64_t num_tokens, int64_t cols, uint8_t* out, Range tokens);
void prepare_bf16_tiles(const float* x, int64_t num_tokens, int64_t cols, uint8_t* out,
                        Range tokens);
void prepare_int16(const float* x, int64_t num_tokens, int64_t cols, uint8_t* out, Range tokens);
void norm_row(const float* x, const float* weight, float eps, int64_t size, float* out);
void rms_norm(const RmsNormArgs& args, Range tokens);
void silu_mul(const float* gate_up, float* out, int64_t n, Range tokens);
void qk_norm_rope_kv_write(const QkvArgs& args, Range tokens);
void attention(const AttentionArgs& args, const AttentionItem& item);

constexpr int64_t kMlaPartKeys = 512;
void mla_cache_write(const MlaCacheWriteArgs& args, Range tokens);
void mla_attention(const MlaAttentionArgs& args, const MlaItem& item);
void mla_merge(const MlaAttentionArgs& args, const MlaItem& item);

}  // namespace atom::cpu::ATOM_ISA
