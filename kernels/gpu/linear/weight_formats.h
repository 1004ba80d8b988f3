// How the products read stored weights (linear_layout.h), one struct a format. A lane holds 16
// bytes of a row at a time; they give kPieces times 8 values, each time the fragment of
// primitives/mma.h: piece(stored, p, group) as bf16, or as f16 where the product multiplies so
// (kF16). Values are numbers as stored; scales multiply sums, exactly: those of kScaleValues values
// of k (Group, of one group of 128 and this lane's rows of a tile, or of one row: row_group), and
// those of a whole row at the end (kRowScales). To add a format: its layout, a struct here, its
// launches (small_packed.cu, tiled.cu), a row in gpu_packed_linear_test. Device code, C++20.
#pragma once

#include "kernels/gpu/linear.h"
#include "kernels/gpu/linear_layout.h"
#include "kernels/gpu/primitives/mma.h"
#include "kernels/gpu/primitives/packed_math.h"

namespace atom::gpu {

// Where a tile of rows begins, in scales: rows past `limit` read the last ones.
struct ScaleRows {
  int first = 0;
  int limit = 0;
};

// The scales of all rows of a group, where they lie: in the weight, or a tile's in shared memory.
struct GroupScales {
  const uint8_t* scales = nullptr;
  const uint8_t* zeros = nullptr;  // or none
};

// Formats without scales inside a row.
struct NoGroup {};
struct RowFormat {
  static constexpr bool kTurns = false;
  static constexpr int kScaleValues = 0;  // of k that share a scale of sums; 0: all
  static constexpr bool kInterleaved = false;
  static constexpr int kInFlight = 16;  // loads of 16 bytes that a lane has under way
  static constexpr int kScaleBytes128 = 0;
  static constexpr int kZeroBytes128 = 0;
  using Group = NoGroup;
  static __device__ __forceinline__ Group load_group(const LinearArgs&, ScaleRows, int, int) {
    return {};
  }
  static __device__ __forceinline__ Group row_group(const LinearArgs&, int, int) { return {}; }
  template <bool kF16>
  static __device__ __forceinline__ float scale(const Group&, int, int) {
    return 1.0F;
  }
};

struct Bf16Format : RowFormat {
  static constexpr int kBits = 16;
  static constexpr bool kTakesF16 = false;
  static constexpr bool kRowScales = false;
  template <bool kF16>
  static __device__ __forceinline__ Vec16 piece(const Vec16& stored, int, const Group&) {
    return stored;
  }
};

// Two words of e4m3 to eight values.
template <bool kF16>
__device__ __forceinline__ Vec16 e4m3_piece(uint32_t low, uint32_t high) {
#if ATOM_GPU_CUDA
  if constexpr (kF16) {
    return Vec16{
        {e4m3_to_f16(low), e4m3_to_f16<true>(low), e4m3_to_f16(high), e4m3_to_f16<true>(high)}};
  } else
#endif
  {
    const uint2 first = e4m3_to_bf16(low);
    const uint2 second = e4m3_to_bf16(high);
    return Vec16{{first.x, first.y, second.x, second.y}};
  }
}

struct E4m3Format : RowFormat {
  static constexpr int kBits = 8;
  static constexpr bool kTakesF16 = true;
  static constexpr bool kRowScales = true;
  template <bool kF16>
  static __device__ __forceinline__ Vec16 piece(const Vec16& stored, int p, const Group&) {
    return e4m3_piece<kF16>(stored.word[2 * p], stored.word[2 * p + 1]);
  }
};

struct E4m3BlockFormat {
  static constexpr int kBits = 8;
  static constexpr bool kTakesF16 = true;
  static constexpr bool kRowScales = false;
  static constexpr int kScaleValues = 128;
  static constexpr bool kTurns = false;
  static constexpr bool kInterleaved = false;
  static constexpr int kInFlight = 12;
  static constexpr int kScaleBytes128 = 64;  // of 128 rows in a group
  static constexpr int kZeroBytes128 = 0;
  struct Group {
    float value;  // of the block that this lane's sums are in
  };
  static __device__ __forceinline__ GroupScales scales_of(const LinearArgs& args, int group) {
    const int first = group * static_cast<int>(block_scale_pitch(args.out_features));
    return {.scales = reinterpret_cast<const uint8_t*>(args.scales + first)};
  }
  // sum_row: of the first of this lane's sums; row: of its weights.
  static __device__ __forceinline__ Group find(const GroupScales& from, int sum_row, int) {
    return {reinterpret_cast<const float*>(
        from.scales)[sum_row / static_cast<int>(kPackedRowMultiple)]};
  }
  static __device__ __forceinline__ Group load_group(const LinearArgs& args, ScaleRows rows,
                                                     int group, int lane) {
    return row_group(args, min(rows.first + ProductTile::sum_row(lane, 0), rows.limit - 1), group);
  }
  static __device__ __forceinline__ Group row_group(const LinearArgs& args, int row, int group) {
    return find(scales_of(args, group), row, row);
  }
  template <bool kF16>
  static __device__ __forceinline__ float scale(const Group& group, int, int) {
    return group.value;
  }
  template <bool kF16>
  static __device__ __forceinline__ Vec16 piece(const Vec16& stored, int p, const Group&) {
    return e4m3_piece<kF16>(stored.word[2 * p], stored.word[2 * p + 1]);
  }
};

// bf16 has 7 bits behind the point: 128 plus the lower seven bits of a value, less 128 or, where
// the value is negative, 256. f16 has 10: 1024 + 128 + the value, less 1152.
struct I8Format : RowFormat {
  static constexpr int kBits = 8;
  static constexpr bool kTakesF16 = true;
  static constexpr bool kRowScales = true;
  template <bool kF16>
  static __device__ __forceinline__ Vec16 piece(const Vec16& stored, int p, const Group&) {
    Vec16 out;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t order = i % 2 == 0 ? 0x4140 : 0x4342;
      out.word[i] = pair<kF16>(stored.word[2 * p + i / 2], order);
    }
    return out;
  }

 private:
  template <bool kF16>
  static __device__ __forceinline__ uint32_t pair(uint32_t word, uint32_t order) {
    if constexpr (kF16) {
      return fma_f16(pick_bytes(word ^ 0x80808080U, 0x64646464U, order), 0x3c003c00U, 0xe480e480U);
    } else {
      const uint32_t bytes = pick_bytes(word, 0U, order);
      return fma_bf16((bytes & 0x00800080U) | 0x43004300U, 0xbf80bf80U,
                      (bytes & 0x007f007fU) | 0x43004300U);
    }
  }
};

// What both formats of four bits share: this lane's sums are of rows 2 i and 2 i + 1 of a tile (of
// one row on HIP), whose scales lie behind each other.
//
// What TurnedTile multiplies (kTurns) costs an instruction a pair: turned(stored, p) leaves values
// kTurnedFactor times too small, and those of its odd words kOddFactor times too large, which x
// makes up for. Where kCentred, zero points are still in, and are taken off by products of ones.
struct NibbleFormat {
  static constexpr int kBits = 4;
  static constexpr bool kTurns = true;
  static constexpr bool kTakesF16 = true;
  static constexpr bool kInterleaved = true;

  static constexpr int kSumRows = ATOM_GPU_HIP ? 1 : 2;
  // The first row of this lane's sums: they are neighbours, and limits are multiples of 8.
  static __device__ __forceinline__ int sum_rows(ScaleRows rows, int lane) {
    return min(rows.first + ProductTile::sum_row(lane, 0), rows.limit - kSumRows);
  }
};

template <int kScaleValues_>
struct U4Format : NibbleFormat {
  static constexpr int kScaleValues = kScaleValues_;  // 128 or 32
  static constexpr bool kRowScales = true;
  static constexpr int kInFlight = kScaleValues == 128 ? 8 : 4;
  static constexpr int kScales = 128 / kScaleValues;
  static constexpr int kScaleBytes128 = 128 * 2 * kScales;
  static constexpr int kZeroBytes128 = 128 * kScales;
  struct Group {
    uint16_t scale[kSumRows][kScales];  // f16
    uint32_t zeros;                     // of this lane's row of weights, a byte each
  };
  static __device__ __forceinline__ GroupScales scales_of(const LinearArgs& args, int group) {
    const auto* all =
        reinterpret_cast<const uint8_t*>(args.scales) + u4_scales_offset(args.out_features);
    const int64_t first = group * args.out_features * kScales;
    const int64_t bytes = u4_scales_bytes(args.out_features, args.in_features, kScaleValues);
    return {.scales = all + first * 2, .zeros = args.has_zeros ? all + bytes + first : nullptr};
  }
  // Bits of a nibble as those of an f16: its number times 2^-24, which products take as it is.
  static constexpr bool kCentred = true;
  static constexpr float kOddFactor = 16.0F;
  // A one in every place, as turned() leaves it.
  static __device__ __forceinline__ Vec16 turned_ones() {
    return Vec16{{0x00010001U, 0x00100010U, 0x00010001U, 0x00100010U}};
  }
  static constexpr float kTurnedFactor = 16777216.0F;
  static constexpr int kTurnedInFlight = 8;
  struct TurnedGroup {
    uint16_t scale[kScales];  // f16
    uint32_t zeros;           // a byte each
  };
  // Of row `at % out_features` in group `at / out_features`; `all` is of group 0.
  static __device__ __forceinline__ TurnedGroup load_turned(const GroupScales& all, uint32_t at) {
    TurnedGroup out;
    __builtin_memcpy(&out.scale,
                     __builtin_assume_aligned(all.scales + at * (2 * kScales), 2 * kScales),
                     2 * kScales);
    out.zeros = 0x08080808U;
    if (all.zeros != nullptr) {
      out.zeros = kScales == 1 ? all.zeros[at] : reinterpret_cast<const uint32_t*>(all.zeros)[at];
    }
    return out;
  }
  static __device__ __forceinline__ float turned_scale(const TurnedGroup& group, int p) {
    return from_f16<false>(group.scale[p % kScales]);
  }
  static __device__ __forceinline__ float turned_zero(const TurnedGroup& group, int p) {
    return static_cast<float>(group.zeros >> (p % kScales * 8) & 0xffU);
  }
  static __device__ __forceinline__ Vec16 turned(const Vec16& stored, int p) {
    const uint32_t word = stored.word[p];
    const uint32_t rest = word >> 8;
    return Vec16{{word & 0x000f000fU, word & 0x00f000f0U, rest & 0x000f000fU, rest & 0x00f000f0U}};
  }

  static __device__ __forceinline__ Group find(const GroupScales& from, int sum_row, int row) {
    Group out;
    const uint8_t* mine = from.scales + sum_row * (2 * kScales);
    __builtin_memcpy(&out.scale, __builtin_assume_aligned(mine, sizeof(out.scale)),
                     sizeof(out.scale));
    out.zeros = 0x08080808U;
    if (from.zeros != nullptr) {
      out.zeros =
          kScales == 1 ? from.zeros[row] : reinterpret_cast<const uint32_t*>(from.zeros)[row];
    }
    return out;
  }
  static __device__ __forceinline__ Group load_group(const LinearArgs& args, ScaleRows rows,
                                                     int group, int lane) {
    return find(scales_of(args, group), sum_rows(rows, lane),
                min(rows.first + ProductTile::row(lane), rows.limit - 1));
  }
  // Scales of the first of this lane's sums only.
  static __device__ __forceinline__ Group row_group(const LinearArgs& args, int row, int group) {
    const GroupScales from = scales_of(args, group);
    Group out;
    out.zeros = 0;
#pragma unroll
    for (int i = 0; i < kScales; ++i) {
      out.scale[0][i] = reinterpret_cast<const uint16_t*>(from.scales)[row * kScales + i];
      out.zeros |= (from.zeros != nullptr ? from.zeros[row * kScales + i] : 8U) << (8 * i);
    }
    return out;
  }
  template <bool kF16>
  static __device__ __forceinline__ float scale(const Group& group, int p, int sum) {
    return from_f16<false>(group.scale[sum % kSumRows][p % kScales]);
  }

  template <bool kF16>
  static __device__ __forceinline__ Vec16 piece(const Vec16& stored, int p, const Group& group) {
    const uint32_t zero = (group.zeros >> (p % kScales * 8) & 0xffU) * 0x00010001U;
    const uint32_t word = stored.word[p];
    Vec16 out;
    if constexpr (kF16) {
      out.word[0] = low_f16(word, zero);
      out.word[1] = high_f16(word, zero);
      out.word[2] = low_f16(word >> 8, zero);
      out.word[3] = high_f16(word >> 8, zero);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // 128 + q, less 128 + zero
        out.word[i] = fma_bf16((word >> (4 * i) & 0x000f000fU) | 0x43004300U, 0x3f803f80U,
                               0xc300c300U + zero);
      }
    }
    return out;
  }

 private:
  // 1024 + q from the lower nibble of a byte, 1024 + 16 q from the upper one.
  static __device__ __forceinline__ uint32_t low_f16(uint32_t word, uint32_t zero) {
    return fma_f16((word & 0x000f000fU) | 0x64006400U, 0x3c003c00U, 0xe400e400U + zero);
  }
  static __device__ __forceinline__ uint32_t high_f16(uint32_t word, uint32_t zero) {
    return fma_f16((word & 0x00f000f0U) | 0x64006400U, 0x2c002c00U, 0xd400d400U + 16 * zero);
  }
};

// Bits of e2m1 in the places of f16's or bf16's are the value times 2^-14 or 2^-126. f16 keeps it,
// and the scale makes up for it; bf16 would lose products beside its smallest numbers.
struct E2m1Format : NibbleFormat {
  static constexpr int kScaleValues = 32;
  static constexpr bool kRowScales = false;
  static constexpr int kInFlight = 8;
  static constexpr int kScaleBytes128 = 128 * 4;
  static constexpr int kZeroBytes128 = 0;
  struct Group {
    uint32_t exponents[kSumRows];  // a byte for each 32 values
  };
  static constexpr bool kCentred = false;
  static constexpr float kOddFactor = 1.0F;
  static __device__ __forceinline__ Vec16 turned_ones() { return Vec16{}; }
  static constexpr float kTurnedFactor = 1.0F;
  static constexpr int kTurnedInFlight = 8;
  using TurnedGroup = uint32_t;  // exponents
  static __device__ __forceinline__ TurnedGroup load_turned(const GroupScales& all, uint32_t at) {
    return reinterpret_cast<const uint32_t*>(all.scales)[at];
  }
  static __device__ __forceinline__ float turned_scale(TurnedGroup exponents, int p) {
    return bits_to_float(((exponents >> (8 * p) & 0xffU) + 14U) << 23);
  }
  static __device__ __forceinline__ float turned_zero(TurnedGroup, int) { return 0.0F; }
  static __device__ __forceinline__ Vec16 turned(const Vec16& stored, int p) {
    return piece<true>(stored, p, Group{});
  }
  static __device__ __forceinline__ GroupScales scales_of(const LinearArgs& args, int group) {
    return {.scales = reinterpret_cast<const uint8_t*>(args.scales) +
                      group * args.out_features * int64_t{4}};
  }
  static __device__ __forceinline__ Group find(const GroupScales& from, int sum_row, int) {
    Group out;
    const uint8_t* mine = from.scales + sum_row * 4;
    __builtin_memcpy(&out.exponents, __builtin_assume_aligned(mine, sizeof(out.exponents)),
                     sizeof(out.exponents));
    return out;
  }
  static __device__ __forceinline__ Group load_group(const LinearArgs& args, ScaleRows rows,
                                                     int group, int lane) {
    return find(scales_of(args, group), sum_rows(rows, lane), 0);
  }
  // Scales of the first of this lane's sums only.
  static __device__ __forceinline__ Group row_group(const LinearArgs& args, int row, int group) {
    Group out;
    out.exponents[0] = reinterpret_cast<const uint32_t*>(scales_of(args, group).scales)[row];
    return out;
  }
  template <bool kF16>
  static __device__ __forceinline__ float scale(const Group& group, int p, int sum) {
    const uint32_t exponent = group.exponents[sum % kSumRows] >> (8 * p) & 0xffU;
    return bits_to_float((exponent + (kF16 ? 14U : 0U)) << 23);
  }

  template <bool kF16>
  static __device__ __forceinline__ Vec16 piece(const Vec16& stored, int p, const Group&) {
    const uint32_t word = stored.word[p];
    Vec16 out;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t pair = word >> (4 * i);
      const uint32_t sign = pair << 12 & 0x80008000U;
      out.word[i] = kF16 ? sign | (pair << 9 & 0x0e000e00U)
                         : fma_bf16(sign | (pair << 6 & 0x01c001c0U), 0x7e807e80U, 0x80008000U);
    }
    return out;
  }
};

}  // namespace atom::gpu
