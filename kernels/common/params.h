// Parameter structs that CPU and GPU kernels share: raw pointers, strides, sizes. C++20.
// Shapes in brackets, row-major; pointers are on the kernel's device.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace atom {

// One step's mixed prefill + decode batch. Sequence s owns query tokens
// [query_start[s], query_start[s + 1]); its newest token is at position context_lens[s] - 1.
struct AttentionMetadata {
  int64_t num_tokens = 0;
  int64_t num_seqs = 0;
  int64_t max_query_len = 0;
  int64_t max_context_len = 0;
  int64_t mean_context_len = 0;           // a hint for speed, where the caller knows
  int64_t block_size = 0;                 // tokens per KV block
  int64_t block_table_stride = 0;         // entries per row of block_tables
  const int32_t* query_start = nullptr;   // [num_seqs + 1]
  const int32_t* context_lens = nullptr;  // [num_seqs] cached tokens including this step's
  const int32_t* block_tables = nullptr;  // [num_seqs, block_table_stride]
  const int32_t* positions = nullptr;     // [num_tokens]
  const int64_t* slot_mapping = nullptr;  // [num_tokens] block * block_size + offset; -1 = padding
};

// One layer's paged cache. k, v: [num_blocks, num_kv_heads, block_size, head_dim].
struct PagedKvCache {
  void* k = nullptr;
  void* v = nullptr;
  DType dtype = DType::kBF16;  // bf16, f32 or fp8_e4m3
  int64_t num_blocks = 0;
  int64_t num_kv_heads = 0;
  int64_t block_size = 0;
  int64_t head_dim = 0;
  float k_scale = 1.0F;  // stored value * scale = real value (fp8)
  float v_scale = 1.0F;
};

// Sizes of latent attention (MLA): a cache row is `rank` values of the latent and `rope` of the
// rotated key part; a query head as projected has `nope` values before its `rope` rotated ones.
struct MlaShape {
  int64_t num_heads = 0;
  int64_t rank = 0;  // kv_lora_rank
  int64_t rope = 0;  // qk_rope_head_dim
  int64_t nope = 0;  // qk_nope_head_dim
};

}  // namespace atom
