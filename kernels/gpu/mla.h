// Latent attention (MLA, DeepSeek V2 and V3) on the device. A token's cache row is its normed
// latent followed by its rotated key part, [num_blocks, block_size, rank + rope], bf16 or e4m3: the
// key of all heads, and its first `rank` values the value of all heads. Contracts of the ops:
// MlaCacheWriteParams, MlaAttentionParams and LinearHeadsParams in atom/model_ops/ops.h. rank and
// rope are even, up to kMaxLatentRank and kMaxLatentRope; where they are no multiples of 8, the
// plain kernel computes attention.
//
// Grids depend on the numbers of tokens and sequences alone, so that a captured step can replay
// them; lengths are read on the device. A row's result is the same in every run of a batch;
// `batch_invariant` makes it independent of the other rows too. C++20.
#pragma once

#include <cstdint>

#include "kernels/common/params.h"
#include "kernels/gpu/vector_ops.h"

namespace atom::gpu {

inline constexpr int kMaxLatentRank = 512;
inline constexpr int kMaxLatentRope = 64;

struct MlaCacheWriteArgs {
  MlaShape shape;
  const uint16_t* q = nullptr;  // bf16 [num_tokens, num_heads, nope + rope]
  // bf16 [num_tokens, rank + rope], rows latent_stride values apart
  const uint16_t* latent = nullptr;
  int64_t latent_stride = 0;
  uint16_t* query =
      nullptr;  // bf16 [num_tokens, num_heads, rank + rope]; the last rope are written
  const float* norm = nullptr;  // [rank]
  float norm_eps = 0;
  const float* cos_sin = nullptr;         // [num_tokens, rope]; pairs (2i, 2i + 1) rotate
  const int64_t* slot_mapping = nullptr;  // [num_tokens]; negative: not written
  PagedKvCache cache;
  int64_t num_tokens = 0;
};
DeviceStatus mla_cache_write(const MlaCacheWriteArgs& args, DeviceStream stream);

struct MlaAttentionArgs {
  MlaShape shape;
  const uint16_t* query = nullptr;  // bf16 [num_tokens, num_heads, rank + rope]
  uint16_t* out = nullptr;          // bf16 [num_tokens, num_heads, rank]
  float scale = 1.0F;
  PagedKvCache cache;
  AttentionMetadata metadata;
  bool batch_invariant = false;
  bool portable = false;      // only the kernel that runs on every device
  float* partials = nullptr;  // mla_partial_floats of scratch
};
// Sequences of context length 0 get zeros.
DeviceStatus mla_attention(const MlaAttentionArgs& args, DeviceStream stream);
// Of a step of any size.
int64_t mla_partial_floats(const MlaShape& shape);

// out[t, h, :out_features] = x[t, h, :in_features] . weight_h^T in f32 sums whose order depends on
// in_features alone.
struct LinearHeadsArgs {
  const uint16_t* x = nullptr;       // bf16 [num_tokens, num_heads, x_stride]
  const uint16_t* weight = nullptr;  // bf16 [num_heads, row_stride, in_features]
  uint16_t* out = nullptr;           // bf16 [num_tokens, num_heads, out_stride]
  int64_t num_tokens = 0;
  int32_t num_heads = 0;
  int32_t in_features = 0;  // multiples of 8 are faster, as of x_stride
  int32_t out_features = 0;
  int64_t row_stride = 0;
  int64_t x_stride = 0;
  int64_t out_stride = 0;
};
DeviceStatus linear_heads(const LinearHeadsArgs& args, DeviceStream stream);

// mla_cache_write and the product of its q with the keys' up-projection into its query, in one
// kernel where there are few tokens.
DeviceStatus mla_queries(const MlaCacheWriteArgs& write, const LinearHeadsArgs& key_up,
                         DeviceStream stream);
// mla_attention and the product of its out with the values' up-projection. What `out` holds
// afterwards is not said; where few tokens have their keys divided, it rounds to bf16 only once.
DeviceStatus mla_attention_values(const MlaAttentionArgs& args, const LinearHeadsArgs& value_up,
                                  DeviceStream stream);

}  // namespace atom::gpu
