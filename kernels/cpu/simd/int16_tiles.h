// The tiles of linear_int16.cpp with AMX: the exact byte-plane sums of one block of 32 columns for
// many tokens. Part of that file, which turns the sums into f32 in the order of its other paths, so
// that the bits agree.
#pragma once

#include "kernels/cpu/activation_layout.h"
#include "kernels/cpu/simd/amx_tiles.h"
#include "kernels/cpu/simd/vec.h"

namespace atom::cpu::ATOM_ISA {

// Sums of one tile of tokens over one panel. The two of TileScratch differ in the low 12 bits of
// their addresses, else loads of one would wait for stores to the other.
struct alignas(64) TileSums {
  int32_t plane[2][kTileRows][kPanelRows];  // high, low
};

struct alignas(64) TileScratch {
  uint8_t weight[2][8][64];  // [panel][quad of columns][16][4]
  TileSums sums[2];          // [panel]
};

// The weights of one part (32 or 16 columns) of a block into tiles 6 and 7.
template <int kNumPanels, int kQuads>
ATOM_INLINE void load_weight_tiles(const I (*quads)[8], int part, TileScratch& scratch) {
#pragma GCC unroll 2
  for (int p = 0; p < kNumPanels; ++p) {
#pragma GCC unroll 8
    for (int j = 0; j < kQuads; ++j) {
      i_store(scratch.weight[p][j], quads[p][part * kQuads + j]);
    }
  }
  tiles_fence();
  _tile_loadd(6, scratch.weight[0], 64);
  if constexpr (kNumPanels == 2) {
    _tile_loadd(7, scratch.weight[1], 64);
  }
}

// Tiles 0 and 1: the planes of a tile of tokens, from byte `offset` of each, times the first panel.
ATOM_INLINE void multiply_first(const Int16Planes* x, int64_t offset) {
  _tile_loadd(4, x->value[0] + offset, sizeof(Int16Planes));
  _tile_loadd(5, x->value[1] + offset, sizeof(Int16Planes));
  _tile_zero(0);
  _tile_zero(1);
  _tile_dpbsud(0, 4, 6);
  _tile_dpbsud(1, 5, 6);
}

// Tiles 2 and 3: the same tokens times the second panel.
ATOM_INLINE void multiply_second() {
  _tile_zero(2);
  _tile_zero(3);
  _tile_dpbsud(2, 4, 7);
  _tile_dpbsud(3, 5, 7);
}

ATOM_INLINE void store_first(TileSums& sums) {
  _tile_stored(0, sums.plane[0], 64);
  _tile_stored(1, sums.plane[1], 64);
}

ATOM_INLINE void store_second(TileSums& sums) {
  _tile_stored(2, sums.plane[0], 64);
  _tile_stored(3, sums.plane[1], 64);
}

}  // namespace atom::cpu::ATOM_ISA
