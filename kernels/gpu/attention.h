// Paged attention on the device: decode (few query tokens a sequence, split over the keys) and
// prefill (tiles of query tokens, cached prefix and own chunk alike through the cache). Both read
// lengths and block tables on the device and launch a grid that depends on nothing but the model,
// so that a captured step can replay them; each works out its own share, there is no plan. A mixed
// batch is one launch of each: decode takes the sequences with at most `max_decode_queries` query
// tokens, prefill the others. Not here: writing the cache (qk_norm_rope_kv_write).
//
// The cache of a layer: K and V apart, each [num_blocks, num_kv_heads, block_size, head_dim], so
// that the keys of a block that one kv head needs are contiguous (16 x 128 bf16: 4 KB). block_size
// is 16, 32 or 64 tokens, head_dim 64, 96, 128 or 256, dtype bf16 or e4m3.
//
// Speed on an H200 (docs/benchmarks/gpu_attention.md): decode up to 98 % of the read roof, prefill
// 480 to 545 TFLOP/s from 4096 tokens on.
//
// Determinism: a row's result is the same in every run of the same batch: partial results are
// merged in a fixed order. `batch_invariant` makes it independent of the other sequences too: the
// keys of a sequence are then split by its own length alone. Prefill always is: a row's keys are
// added up in tiles from position 0 on, whatever the chunking. C++20.
#pragma once

#include <cstdint>

#include "kernels/common/params.h"
#include "kernels/gpu/vector_ops.h"

namespace atom::gpu {

struct PagedAttentionArgs {
  const uint16_t* q =
      nullptr;              // bf16 [num_tokens, num_heads, head_dim], rows q_stride values apart
  int64_t q_stride = 0;     // a multiple of 8
  uint16_t* out = nullptr;  // bf16 [num_tokens, num_heads, head_dim]
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  float scale = 1.0F;
  int32_t sliding_window = 0;    // 0 = full causal; else keys at position > p - sliding_window
  const float* sinks = nullptr;  // [num_heads] extra softmax logit without value, or none
  PagedKvCache cache;
  AttentionMetadata metadata;  // positions and slot_mapping are not read
  int32_t max_decode_queries = 1;
  bool batch_invariant = false;
  bool portable = false;      // only kernels that run on every device
  int64_t max_seqs = 0;       // as in the AttentionLimits of the workspace
  void* workspace = nullptr;  // attention_workspace_bytes; zeroed once by who allocates it
};

// Of decode, for up to max_seqs sequences. The part at the front must be zero before the first
// launch and is zero again after each.
struct AttentionLimits {
  int64_t max_seqs = 0;
  int32_t max_decode_queries = 1;
  int32_t num_heads = 0;
  int32_t head_dim = 0;
};
int64_t attention_workspace_bytes(const AttentionLimits& limits);

// A sequence with context length 0 gets zeros. Rows of `out` that belong to no sequence, or to one
// that the other kernel takes, are not written. Decode reads lengths and block tables before it
// waits for the kernel before it: launch.h says what makes that right.
void decode_attention(const PagedAttentionArgs& args, void* stream);
void prefill_attention(const PagedAttentionArgs& args, void* stream);

// qk_norm_rope_kv_write and decode_attention in one kernel, for steps of few sequences with one
// query token each (Hopper): `rope` is of the same tokens and cache, its qkv holds attention.q and
// is not written. Reads metadata, cos_sin and cached keys before it waits for the kernel before it:
// these must be complete before that one starts (launch.h says how). False when it does not take
// the case.
bool step_attention(const QkNormRopeKvWriteArgs& rope, const PagedAttentionArgs& attention,
                    void* stream);

// Whether the kernels take such a model and cache.
bool attention_supports(const PagedAttentionArgs& args);

}  // namespace atom::gpu
