// The attention kernels by head dim, each in a file of its own, and the layout of their workspace.
#pragma once

#include "kernels/gpu/attention.h"

namespace atom::gpu {

template <int kHeadDim>
void launch_decode(const PagedAttentionArgs& args, void* stream);
template <int kHeadDim>
void launch_prefill(const PagedAttentionArgs& args, void* stream);

// Blocks that have slots for partial results.
inline constexpr int kMaxDecodeGrid = 1024;
// Hopper's own (sm90/); false when they do not take the case.
bool launch_decode_sm90(const PagedAttentionArgs& args, void* stream);
bool launch_prefill_sm90(const PagedAttentionArgs& args, void* stream);
bool launch_step_sm90(const QkNormRopeKvWriteArgs& rope, const PagedAttentionArgs& args,
                      void* stream);

// Keys of the smallest piece of an item, but for its last.
#ifndef ATOM_MIN_PIECE_KEYS
#define ATOM_MIN_PIECE_KEYS 256
#endif
inline constexpr int kMinPieceKeys = ATOM_MIN_PIECE_KEYS;
// Pieces of an item with batch_invariant.
inline constexpr int kInvariantPieces = 16;

// The workspace: prefill's two counters, decode's counters, decode's partial results.
inline constexpr int64_t kPrefillCounterBytes = 256;
constexpr int64_t decode_counter_bytes(int64_t max_seqs, int64_t max_queries, int64_t num_heads) {
  return (max_seqs * max_queries * num_heads * 4 + 255) / 256 * 256;
}
inline int32_t* prefill_counters(void* workspace) { return static_cast<int32_t*>(workspace); }
inline int32_t* decode_counters(void* workspace) {
  return reinterpret_cast<int32_t*>(static_cast<uint8_t*>(workspace) + kPrefillCounterBytes);
}
inline float* decode_partials(const PagedAttentionArgs& args) {
  return reinterpret_cast<float*>(
      static_cast<uint8_t*>(args.workspace) + kPrefillCounterBytes +
      decode_counter_bytes(args.max_seqs, args.max_decode_queries, args.num_heads));
}

}  // namespace atom::gpu
