// The work of prefill attention: blocks of query rows of one sequence and kv head, the longest of a
// sequence first. Shared by the portable kernel and Hopper's. Device code.
#pragma once

#include "kernels/gpu/attention/share.h"

namespace atom::gpu {

// A block of query rows of one sequence and kv head.
struct RowTile {
  int sequence = 0;
  int kv_head = 0;
  int first_row = 0;
  int num_rows = 0;  // of the sequence and kv head
  int context_len = 0;
  int query_start = 0;
  int query_len = 0;
};

// Row tiles of a sequence, all kv heads.
template <int kRows>
__device__ __forceinline__ int row_tiles(const PagedAttentionArgs& args, int sequence) {
  const int len = args.metadata.query_start[sequence + 1] - args.metadata.query_start[sequence];
  if (len <= args.max_decode_queries) {
    return 0;
  }
  return (len * (args.num_heads / args.num_kv_heads) + kRows - 1) / kRows;
}

template <int kRows>
__device__ __forceinline__ RowTile row_tile(const PagedAttentionArgs& args, const int* starts,
                                            int task) {
  RowTile tile;
  tile.sequence = find_sequence(task, static_cast<int>(args.metadata.num_seqs), starts);
  tile.query_start = args.metadata.query_start[tile.sequence];
  tile.query_len = args.metadata.query_start[tile.sequence + 1] - tile.query_start;
  tile.context_len = args.metadata.context_lens[tile.sequence];
  tile.num_rows = tile.query_len * (args.num_heads / args.num_kv_heads);
  const int local = task - starts[tile.sequence];
  const int tiles = (tile.num_rows + kRows - 1) / kRows;
  tile.kv_head = local % args.num_kv_heads;
  tile.first_row = (tiles - 1 - local / args.num_kv_heads) * kRows;
  return tile;
}

}  // namespace atom::gpu
