// Reading the quantised panels of panel_layout.h, 32 columns at a time. A format tells
//   quads(panel, b, q): the 8 quads of columns [32 b, 32 b + 32) as unsigned bytes,
//   scale(panel, b, half): the factor of columns [32 b + 16 half, ...); the same for both halves
//   unless kSplit, minimum(panel, b): what is added to factor * value (kHasMin).
// A weight is factor * (value - kOffset) + minimum. To add a format: a
// struct here, its layout, its packing, and a case in each switch over dtypes.
#pragma once

#include "kernels/cpu/panel_layout.h"
#include "kernels/cpu/simd/vec.h"

namespace atom::cpu::ATOM_ISA {

ATOM_INLINE void unpack_nibbles(const uint8_t* p, I q[8]) {
  const I mask = i_set(0x0f0f0f0f);
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const I bytes = i_load(p + j * 64);
    q[j] = i_and(bytes, mask);
    q[j + 4] = i_and(i_shr<4>(bytes), mask);
  }
}

// Blocks of one scale each: the quads of all blocks, then the scales of all blocks.
template <int kQuadBytes>
struct ScaledBlocks {
  static constexpr bool kHasMin = false;
  static constexpr bool kSplit = false;
  int64_t blocks;
  ATOM_INLINE_MEMBER F scale(const uint8_t* panel, int64_t b, int) const {
    return f_load_f16(panel + blocks * kQuadBytes + b * 32);
  }
  ATOM_INLINE_MEMBER F minimum(const uint8_t*, int64_t) const { return f_zero(); }
};

struct FormatQ8_0 : ScaledBlocks<512> {
  static constexpr int kOffset = 128;
  ATOM_INLINE_MEMBER void quads(const uint8_t* panel, int64_t b, I q[8]) const {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      q[j] = i_load(panel + b * 512 + j * 64);
    }
  }
};

struct FormatQ4_0 : ScaledBlocks<256> {
  static constexpr int kOffset = 8;
  ATOM_INLINE_MEMBER void quads(const uint8_t* panel, int64_t b, I q[8]) const {
    unpack_nibbles(panel + b * 256, q);
  }
};

struct FormatQ4_1 {
  static constexpr bool kHasMin = true;
  static constexpr bool kSplit = false;
  static constexpr int kOffset = 0;
  int64_t blocks;
  ATOM_INLINE_MEMBER void quads(const uint8_t* panel, int64_t b, I q[8]) const {
    unpack_nibbles(panel + b * kQ4_1Bytes, q);
  }
  ATOM_INLINE_MEMBER F scale(const uint8_t* panel, int64_t b, int) const {
    return f_load_f16(panel + b * kQ4_1Bytes + 256);
  }
  ATOM_INLINE_MEMBER F minimum(const uint8_t* panel, int64_t b) const {
    return f_load_f16(panel + b * kQ4_1Bytes + 288);
  }
};

struct FormatQ4_K {
  static constexpr bool kHasMin = true;
  static constexpr bool kSplit = false;
  static constexpr int kOffset = 0;
  int64_t blocks;
  ATOM_INLINE_MEMBER void quads(const uint8_t* panel, int64_t b, I q[8]) const {
    const uint8_t* group = panel + b / 8 * kQ4KBytes + b % 8 / 2 * 512;
    const I mask = i_set(0x0f0f0f0f);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const I bytes = i_load(group + j * 64);
      q[j] = i_and(b % 2 == 0 ? bytes : i_shr<4>(bytes), mask);
    }
  }
  ATOM_INLINE_MEMBER F scale(const uint8_t* panel, int64_t b, int) const {
    const uint8_t* super = panel + b / 8 * kQ4KBytes;
    return f_mul(f_load_f16(super + 2304), to_f32(i_load_u8(super + 2048 + b % 8 * 16)));
  }
  ATOM_INLINE_MEMBER F minimum(const uint8_t* panel, int64_t b) const {
    const uint8_t* super = panel + b / 8 * kQ4KBytes;
    return f_sub(f_zero(),
                 f_mul(f_load_f16(super + 2336), to_f32(i_load_u8(super + 2176 + b % 8 * 16))));
  }
};

struct FormatQ6_K {
  static constexpr bool kHasMin = false;
  static constexpr bool kSplit = true;
  static constexpr int kOffset = 32;
  int64_t blocks;
  template <int kRun>
  ATOM_INLINE_MEMBER void run(const uint8_t* low, const uint8_t* high, I q[8]) const {
    const I low_mask = i_set(0x0f0f0f0f);
    const I high_mask = i_set(0x30303030);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const I nibbles = i_load(low + (kRun % 2 * 8 + j) * 64);
      const I bits = i_load(high + j * 64);
      const I shifted = kRun == 0   ? i_shl<4>(bits)
                        : kRun == 1 ? i_shl<2>(bits)
                        : kRun == 2 ? bits
                                    : i_shr<2>(bits);
      q[j] =
          i_or(i_and(kRun < 2 ? nibbles : i_shr<4>(nibbles), low_mask), i_and(shifted, high_mask));
    }
  }
  ATOM_INLINE_MEMBER void quads(const uint8_t* panel, int64_t b, I q[8]) const {
    const uint8_t* low = panel + b / 8 * kQ6KBytes + b % 8 / 4 * 1024;
    const uint8_t* high = panel + b / 8 * kQ6KBytes + 2048 + b % 8 / 4 * 512;
    switch (b % 4) {
      case 0:
        return run<0>(low, high, q);
      case 1:
        return run<1>(low, high, q);
      case 2:
        return run<2>(low, high, q);
      default:
        return run<3>(low, high, q);
    }
  }
  ATOM_INLINE_MEMBER F scale(const uint8_t* panel, int64_t b, int half) const {
    const uint8_t* super = panel + b / 8 * kQ6KBytes;
    return f_mul(f_load_f16(super + 3328),
                 to_f32(i_load_i8(super + 3072 + (b % 8 * 2 + half) * 16)));
  }
  ATOM_INLINE_MEMBER F minimum(const uint8_t*, int64_t) const { return f_zero(); }
};

}  // namespace atom::cpu::ATOM_ISA
