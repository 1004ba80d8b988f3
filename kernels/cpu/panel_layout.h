// How weights lie in memory for the SIMD kernels. A panel is 16 output features (kPanelRows); one
// 32-bit lane of a vector belongs to one feature. Values along k come in quads (4 bytes), pairs (2
// x 16 bit) or singles, so that a kernel broadcasts the matching piece of x and never shuffles.
// Nothing is re-coded: packing only transposes 32-bit words, and the size is that of the checkpoint
// (Q4_K + 3 %, Q6_K + 1 %).
//
//   F32   [cols][16] f32
//   F16   [cols][16] f16
//   BF16  [cols / 2][16][2] bf16, columns padded with zero to a multiple of 32 (one tile of AMX)
//   Q8_0  per 32 columns: quads [8][16][4] u8 (value + 128);        then for all blocks: d [16] f16
//   Q4_0  per 32 columns: nibble quads [4][16][4] u8, low nibbles are quads 0-3, high nibbles quads
//   4-7;
//                                                                    then for all blocks: d [16]
//                                                                    f16
//   Q4_1  per 32 columns: nibble quads as Q4_0, d [16] f16, m [16] f16
//   Q4_K  per 256 columns: 4 groups of nibble quads [8][16][4] (low: sub-block 2g, high: 2g + 1),
//         scales [8][16] u8, minima [8][16] u8, d [16] f16, dmin [16] f16
//   Q6_K  per 256 columns: low nibbles [2][16][16][4], high bits [2][8][16][4], scales [16][16] i8,
//   d [16]
//         f16, 32 bytes of padding
#pragma once

#include <stdint.h>

#include "kernels/common/dtype.h"

namespace atom::cpu {

inline constexpr int64_t kQ4KBytes = 2048 + 128 + 128 + 32 + 32;
inline constexpr int64_t kQ6KBytes = 2048 + 1024 + 256 + 32 + 32;
inline constexpr int64_t kQ4_1Bytes = 256 + 32 + 32;

static inline int64_t panel_bytes(DType dtype, int64_t cols) {
  int64_t bytes = 0;
  switch (dtype) {
    case DType::kF32:
      bytes = cols * 64;
      break;
    case DType::kF16:
      bytes = cols * 32;
      break;
    case DType::kBF16:
      bytes = (cols + 31) / 32 * 1024;
      break;
    case DType::kQ8_0:
      bytes = cols / 32 * (512 + 32);
      break;
    case DType::kQ4_0:
      bytes = cols / 32 * (256 + 32);
      break;
    case DType::kQ4_1:
      bytes = cols / 32 * kQ4_1Bytes;
      break;
    case DType::kQ4_K:
      bytes = cols / 256 * kQ4KBytes;
      break;
    case DType::kQ6_K:
      bytes = cols / 256 * kQ6KBytes;
      break;
    default:
      break;
  }
  return (bytes + 63) / 64 * 64;
}

}  // namespace atom::cpu
