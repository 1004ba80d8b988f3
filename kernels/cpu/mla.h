// Latent attention (MLA, DeepSeek) as the CPU kernels see it. A token's cache row is its normed
// latent followed by its rotated key part; it is the key of all heads, and its first kv_lora_rank
// values are the value of all heads. Contracts of the ops: MlaCacheWriteParams and
// MlaAttentionParams in atom/model_ops/ops.h.
#pragma once

#include <cstdint>

#include "kernels/common/params.h"

namespace atom::cpu {

// Floats of states that a step may hold: longer contexts are divided by heads alone. Also bounds
// the scratch that a memory plan reserves.
inline constexpr int64_t kMlaStates = int64_t{4} << 20;

// The largest row that the kernels hold: DeepSeek V2, V3 and Kimi-K2 have just these.
inline constexpr int64_t kMaxLatentRank = 512;
inline constexpr int64_t kMaxLatentRope = 64;

struct MlaCacheWriteArgs {
  MlaShape shape;
  const float* q = nullptr;       // [num_tokens, num_heads, nope + rope]
  const float* latent = nullptr;  // [num_tokens, rank + rope]
  float* query = nullptr;       // [num_tokens, num_heads, rank + rope]; the last `rope` are written
  const float* norm = nullptr;  // [rank]
  float norm_eps = 0;
  const float* cos_sin = nullptr;         // [num_tokens, rope]
  const int64_t* slot_mapping = nullptr;  // [num_tokens]
  PagedKvCache cache;
};

struct MlaAttentionArgs {
  MlaShape shape;
  const float* query = nullptr;  // [num_tokens, num_heads, rank + rope]
  float* out = nullptr;          // [num_tokens, num_heads, rank]
  float scale = 1.0F;
  PagedKvCache cache;
  AttentionMetadata metadata;
};

// Query tokens of one sequence and some of their heads: rows (token, head), token by token. The
// context is cut into parts at multiples of Kernels::mla_part_keys. Rows are summed up part by part
// and the parts' states merged in order, whoever computes them: alone, or `parts` of them into
// `states` for mla_merge.
struct MlaItem {
  int64_t sequence = 0;
  int64_t token_begin = 0, token_end = 0;
  int64_t head_begin = 0, head_end = 0;
  int64_t part_begin = 0, part_end = 0;
  float* states = nullptr;  // [parts, rows, mla_state_size], or none: write `out`

  int64_t rows() const { return (token_end - token_begin) * (head_end - head_begin); }
};

// Floats that a row's state takes: sums of weighted values, 16 lanes of the sum of weights, and the
// largest score.
inline int64_t mla_state_size(const MlaShape& shape) { return (shape.rank + 15) / 16 * 16 + 32; }

}  // namespace atom::cpu
