// Which rows (token, head) a block of latent attention computes, and over which keys.
#pragma once

#include "kernels/gpu/mla.h"
#include "kernels/gpu/vendor/gpu_runtime.h"

namespace atom::gpu {

// How a step is cut; made by the host from what a captured step may know.
struct MlaGrid {
  int tile_tokens = 1;  // of one sequence in a tile
  int tile_heads = 1;   // row r of a tile: token r / tile_heads, head r % tile_heads
  int head_tiles = 1;
  int splits = 1;          // parts of the keys, in blocks of their own
  bool one_token = false;  // every sequence has one token: tile i is sequence i
};

struct MlaTile {
  int sequence = 0;
  int first_token = 0;  // of the step
  int num_tokens = 0;   // 0: nothing to do
  int first_head = 0;
  int position = 0;  // of first_token; the others follow

  // blockIdx.x counts the tiles of tokens, those of a sequence side by side.
  __device__ static MlaTile find(const AttentionMetadata& meta, const MlaGrid& grid, int index,
                                 int head_tile) {
    MlaTile tile;
    int rest = index;
    int sequence = 0;
    const auto num_seqs = static_cast<int>(meta.num_seqs);
    if (grid.one_token) {
      sequence = index;
      rest = 0;
    } else {
      for (; sequence < num_seqs; ++sequence) {
        const int tokens = meta.query_start[sequence + 1] - meta.query_start[sequence];
        const int tiles = (tokens + grid.tile_tokens - 1) / grid.tile_tokens;
        if (rest < tiles) {
          break;
        }
        rest -= tiles;
      }
    }
    if (sequence >= num_seqs) {
      return tile;
    }
    const int end = meta.query_start[sequence + 1];
    tile.sequence = sequence;
    tile.first_token = meta.query_start[sequence] + rest * grid.tile_tokens;
    tile.num_tokens = min(grid.tile_tokens, end - tile.first_token);
    tile.first_head = head_tile * grid.tile_heads;
    tile.position = meta.context_lens[sequence] - (end - tile.first_token);
    return tile;
  }
};

}  // namespace atom::gpu
