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

// What block types need to know of a weight.
struct BlockShape {
  int64_t blocks = 0;
  ATOM_INLINE_MEMBER void set_up(const DataFormat&, int64_t cols) { blocks = cols / 32; }
};

// Blocks of one scale each: the quads of all blocks, then the scales of all blocks.
template <int kQuadBytes>
struct ScaledBlocks : BlockShape {
  static constexpr bool kHasMin = false;
  static constexpr bool kSplit = false;
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

struct FormatQ4_1 : BlockShape {
  static constexpr bool kHasMin = true;
  static constexpr bool kSplit = false;
  static constexpr int kOffset = 0;
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

struct FormatQ4_K : BlockShape {
  static constexpr bool kHasMin = true;
  static constexpr bool kSplit = false;
  static constexpr int kOffset = 0;
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

struct FormatQ6_K : BlockShape {
  static constexpr bool kHasMin = false;
  static constexpr bool kSplit = true;
  static constexpr int kOffset = 32;
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

// Formats with separate scales: one per row and group of columns, a group being 2^n blocks or the
// whole row.
ATOM_INLINE F load_scales(DType dtype, const uint8_t* p) {
  switch (dtype) {
    case DType::kF16:
      return f_load_f16(p);
    case DType::kBF16:
      return f_load_bf16(p);
    case DType::kF8E8M0: {  // 2^-127 is subnormal: not zero
      const I value = i_load_u8(p);
      const I tiny = i_set(0x00400000);
      return f_max(as_f32(i_shl<23>(value)), as_f32(tiny));
    }
    default:
      return f_load(reinterpret_cast<const float*>(p));
  }
}

struct GroupScales {
  static constexpr bool kSplit = false;
  int64_t scales_at = 0;
  int64_t zeros_at = 0;
  int64_t scale_bytes = 0;  // of one group of a panel
  int shift = 0;            // group of block b: b >> shift
  DType scale_dtype = DType::kF32;

  ATOM_INLINE_MEMBER void set_up(const DataFormat& format, int64_t cols) {
    scales_at = panel_scales_at(format, cols);
    zeros_at = panel_zeros_at(format, cols);
    scale_dtype = format.scale_dtype;
    scale_bytes = 16 * dtype_bytes(scale_dtype, 1);
    shift = format.block_k <= 0 ? 62 : __builtin_ctzll(static_cast<uint64_t>(format.block_k)) - 5;
  }
  ATOM_INLINE_MEMBER F group_scale(const uint8_t* panel, int64_t b) const {
    return load_scales(scale_dtype, panel + scales_at + (b >> shift) * scale_bytes);
  }
};

struct FormatI8 : GroupScales {
  static constexpr int kOffset = 128;
  static constexpr bool kHasMin = false;
  ATOM_INLINE_MEMBER void quads(const uint8_t* panel, int64_t b, I q[8]) const {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      q[j] = i_load(panel + b * 512 + j * 64);
    }
  }
  ATOM_INLINE_MEMBER F scale(const uint8_t* panel, int64_t b, int) const {
    return group_scale(panel, b);
  }
  ATOM_INLINE_MEMBER F minimum(const uint8_t*, int64_t) const { return f_zero(); }
};

template <bool kZeros>
struct FormatU4 : GroupScales {
  static constexpr int kOffset = kZeros ? 0 : 8;
  static constexpr bool kHasMin = kZeros;
  ATOM_INLINE_MEMBER void quads(const uint8_t* panel, int64_t b, I q[8]) const {
    unpack_nibbles(panel + b * 256, q);
  }
  ATOM_INLINE_MEMBER F scale(const uint8_t* panel, int64_t b, int) const {
    return group_scale(panel, b);
  }
  ATOM_INLINE_MEMBER F minimum(const uint8_t* panel, int64_t b) const {
    if constexpr (!kZeros) {
      return f_zero();
    }
    const F zero = to_f32(i_load_u8(panel + zeros_at + (b >> shift) * 16));
    return f_sub(f_zero(), f_mul(group_scale(panel, b), zero));
  }
};

// Values times two are integers: the nibble looked up as that plus 12.
struct FormatF4 : GroupScales {
  static constexpr int kOffset = 12;
  static constexpr bool kHasMin = false;
  ATOM_INLINE_MEMBER void quads(const uint8_t* panel, int64_t b, I q[8]) const {
    static const uint8_t kTwice[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
    unpack_nibbles(panel + b * 256, q);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      q[j] = i_lookup16(kTwice, q[j]);
    }
  }
  ATOM_INLINE_MEMBER F scale(const uint8_t* panel, int64_t b, int) const {
    return f_mul(group_scale(panel, b), f_set(0.5F));
  }
  ATOM_INLINE_MEMBER F minimum(const uint8_t*, int64_t) const { return f_zero(); }
};

}  // namespace atom::cpu::ATOM_ISA
