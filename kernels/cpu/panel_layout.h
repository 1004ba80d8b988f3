// How weights lie in memory for the SIMD kernels. A panel is 16 output features (kPanelRows); one
// 32-bit lane of a vector belongs to one feature. Values along k come in quads (4 bytes), pairs (2
// x 16 bit) or singles, so that a kernel broadcasts the matching piece of x and never shuffles.
// Nothing is re-coded: packing only transposes 32-bit words (and pairs nibbles 16 columns apart),
// and the size is that of the checkpoint (Q4_K + 3 %, Q6_K + 1 %).
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
//
// Formats with separate scales; columns are padded to a multiple of 32, x with zeros:
//   I8           per 32 columns: quads [8][16][4] of u8 (value + 128); columns to a multiple of 64
//   F8E4M3       per 32 columns: quads [8][16][4], their columns in the order 0, 2, 1, 3
//   U4, F4E2M1   per 32 columns: nibble quads as Q4_0
//   then for all: scales [scales_per_row][16] in scale_dtype, zero points [scales_per_row][16] u8
#pragma once

#include <stdint.h>

#include "kernels/common/data_format.h"

namespace atom::cpu {

inline constexpr int64_t kQ4KBytes = 2048 + 128 + 128 + 32 + 32;
inline constexpr int64_t kQ6KBytes = 2048 + 1024 + 256 + 32 + 32;
inline constexpr int64_t kQ4_1Bytes = 256 + 32 + 32;

static inline int64_t column_blocks(int64_t cols) { return (cols + 31) / 32; }

// Where the scales and the zero points of a panel begin (formats with separate scales).
static inline int64_t panel_scales_at(const DataFormat& format, int64_t cols) {
  switch (format.dtype) {
    case DType::kI8:  // whole tiles of AMX
      return (cols + 63) / 64 * 1024;
    case DType::kF8E4M3:
      return column_blocks(cols) * 512;
    default:
      return column_blocks(cols) * 256;
  }
}
static inline int64_t panel_zeros_at(const DataFormat& format, int64_t cols) {
  return panel_scales_at(format, cols) +
         scales_per_row(format, cols) * 16 * dtype_bytes(format.scale_dtype, 1);
}

static inline int64_t panel_bytes(const DataFormat& format, int64_t cols) {
  int64_t bytes = 0;
  switch (format.dtype) {
    case DType::kI8:
    case DType::kF8E4M3:
    case DType::kU4:
    case DType::kF4E2M1:
      bytes =
          panel_zeros_at(format, cols) + (format.has_zeros ? scales_per_row(format, cols) * 16 : 0);
      break;
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
