// The tile registers of AMX: their shapes for one kernel call. Tiles 0-3 hold sums, 4-5 rows of x
// (one token a row), 6-7 weights, read as they lie in a panel: a row is 16 output features of one
// quad or pair of columns. GCC's intrinsics take tile numbers as literals and do not tell the
// compiler which memory a load reads: after writing such memory, tiles_fence().
#pragma once

#include <immintrin.h>
#include <stdint.h>

#define ATOM_TILES __attribute__((always_inline)) static inline

namespace atom::cpu::ATOM_ISA {

inline constexpr int64_t kTileRows = 16;

ATOM_TILES void tiles_fence() { asm volatile("" ::: "memory"); }

// Sums [rows][16] of 32 bits, x [rows][k_bytes], weights [k_bytes / 4][16][4 bytes]. All tiles
// become zero.
ATOM_TILES void tiles_configure(int64_t rows, int64_t k_bytes) {
  struct alignas(64) {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? k_bytes : 64);
    config.rows[i] = static_cast<uint8_t>(i < 6 ? rows : k_bytes / 4);
  }
  asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
}

}  // namespace atom::cpu::ATOM_ISA
