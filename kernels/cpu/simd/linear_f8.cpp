// Linear layers over e4m3 weights with bf16 dot products: e4m3 is exact in bf16, x is rounded to
// bf16, sums are f32. Per output and chunk of columns that shares a scale, pairs of columns are
// added in order by vdpbf16ps, then total = fma(sum, scale, total). For few rows of x weights are
// converted in registers, for many once per tile, in the same order: the bits are the same. Only
// for processors with the bf16 unit; others use linear_f32.cpp.
#include "kernels/cpu/activation_layout.h"
#include "kernels/cpu/simd/isa_kernels.h"
#include "kernels/cpu/simd/weight_blocks.h"

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)

namespace atom::cpu::ATOM_ISA {
namespace {

constexpr int kPanels = 4;
constexpr int kTokens = 6;          // 24 sums, 4 weights, 1 broadcast
constexpr int64_t kChunk = 128;     // columns at most that are decoded at a time
constexpr int64_t kTokenTile = 64;  // tokens that share a decoded chunk

struct Tile {
  uint8_t weight[kPanels][kChunk / 2][64];  // pairs of bf16, 16 KiB
  float acc[kTokenTile][kPanels * kPanelRows];
};

// What all tiles of a call share.
struct Weights {
  const LinearArgs& args;
  GroupScales scales;
  int64_t bytes;  // of a panel
  int64_t chunk;  // columns

  ATOM_INLINE_MEMBER explicit Weights(const LinearArgs& linear) : args(linear), scales{} {
    scales.set_up(linear.format, linear.cols);
    bytes = panel_bytes(linear.format, linear.cols);
    const int64_t group = linear.format.block_k;
    chunk = group > 0 && group < kChunk ? group : kChunk;
  }
};

// Sixteen-bit lanes with e4m3 in their high bytes to bf16. Normal numbers: the exponent moves down
// four bits and its bias grows by 120; the eight subnormal magnitudes are looked up.
ATOM_INLINE I to_bf16_lanes(I high) {
  static const uint16_t kSubnormal[32] = {0,      0x3b00, 0x3b80, 0x3bc0,
                                          0x3c00, 0x3c20, 0x3c40, 0x3c60};
  const I magnitude = i_and(_mm512_srli_epi16(high, 4), i_set(0x07f007f0));
  const I normal = _mm512_add_epi16(magnitude, i_set(0x3c003c00));
  const __mmask32 small = _mm512_cmplt_epu16_mask(magnitude, i_set(0x00800080));
  const I value = _mm512_mask_permutexvar_epi16(normal, small, _mm512_srli_epi16(magnitude, 4),
                                                i_load(kSubnormal));
  return i_or(value, i_and(high, i_set(static_cast<int32_t>(0x80008000U))));
}

// The two pairs of columns of a quad (columns 0, 2, 1, 3).
ATOM_INLINE void decode_quad(const uint8_t* p, I pair[2]) {
  const I quad = i_load(p);
  pair[0] = to_bf16_lanes(_mm512_slli_epi16(quad, 8));
  pair[1] = to_bf16_lanes(i_and(quad, i_set(static_cast<int32_t>(0xff00ff00U))));
}

ATOM_INLINE F dot2(F acc, I w, I x) {
  return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
}

// One row of x, weights converted in registers.
template <int kNumPanels>
void stream_row(const Weights& w, int64_t token, int64_t first_panel) {
  const LinearArgs& args = w.args;
  const int64_t quads = column_blocks(args.cols) * 8;
  const uint8_t* panel = args.weight + first_panel * w.bytes;
  const auto* x = reinterpret_cast<const int32_t*>(args.input) + token * bf16_pairs(args.cols);
  F total[kNumPanels];
#pragma GCC unroll 4
  for (int p = 0; p < kNumPanels; ++p) {
    total[p] = f_zero();
  }
  for (int64_t begin = 0; begin < quads; begin += w.chunk / 4) {
    const int64_t end = begin + w.chunk / 4 < quads ? begin + w.chunk / 4 : quads;
    F acc[kNumPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kNumPanels; ++p) {
      acc[p] = f_zero();
    }
    for (int64_t q = begin; q < end; ++q) {
      prefetch(panel + kNumPanels * (w.bytes + q * 64), kNumPanels * 64);
      const I first = i_set(x[2 * q]);
      const I second = i_set(x[2 * q + 1]);
#pragma GCC unroll 4
      for (int p = 0; p < kNumPanels; ++p) {
        I pair[2];
        decode_quad(panel + p * w.bytes + q * 64, pair);
        acc[p] = dot2(dot2(acc[p], pair[0], first), pair[1], second);
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < kNumPanels; ++p) {
      total[p] = f_fma(acc[p], w.scales.group_scale(panel + p * w.bytes, begin / 8), total[p]);
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < kNumPanels; ++p) {
    const int64_t row = (first_panel + p) * kPanelRows;
    const int64_t rows = args.rows - row;
    const F bias = args.bias == nullptr ? f_zero() : f_load_first(args.bias + row, rows);
    f_store_first(args.out + token * args.out_stride + row, f_add(total[p], bias), rows);
  }
}

// acc [kNumTokens] += (x . decoded chunk) * scale
template <int kNumPanels, int kNumTokens>
ATOM_INLINE void multiply(const Tile& tile, const int32_t* x, int64_t stride, int64_t pairs,
                          const F* scale, float (*sums)[kPanels * kPanelRows]) {
  F acc[kNumTokens][kNumPanels];
#pragma GCC unroll 8
  for (int t = 0; t < kNumTokens; ++t) {
#pragma GCC unroll 8
    for (int p = 0; p < kNumPanels; ++p) {
      acc[t][p] = f_zero();
    }
  }
  for (int64_t k = 0; k < pairs; ++k) {
    I w[kNumPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kNumPanels; ++p) {
      w[p] = i_load(tile.weight[p][k]);
    }
#pragma GCC unroll 8
    for (int t = 0; t < kNumTokens; ++t) {
      const I xk = i_set(x[t * stride + k]);
#pragma GCC unroll 8
      for (int p = 0; p < kNumPanels; ++p) {
        acc[t][p] = dot2(acc[t][p], w[p], xk);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kNumTokens; ++t) {
#pragma GCC unroll 8
    for (int p = 0; p < kNumPanels; ++p) {
      float* sum = sums[t] + p * kPanelRows;
      f_store(sum, f_fma(acc[t][p], scale[p], f_load(sum)));
    }
  }
}

template <int kNumPanels>
void run_tile(const Weights& w, Range tokens, int64_t first_panel, Tile& tile) {
  const LinearArgs& args = w.args;
  const int64_t count = tokens.end - tokens.begin;
  if (count == 1) {
    return stream_row<kNumPanels>(w, tokens.begin, first_panel);
  }
  const int64_t stride = bf16_pairs(args.cols);
  memset(tile.acc, 0, sizeof(tile.acc[0]) * static_cast<size_t>(count));
  for (int64_t k = 0; k < stride * 2; k += w.chunk) {
    const int64_t columns = k + w.chunk < stride * 2 ? w.chunk : stride * 2 - k;
    F scale[kNumPanels];
    for (int p = 0; p < kNumPanels; ++p) {
      const uint8_t* panel = args.weight + (first_panel + p) * w.bytes;
      scale[p] = w.scales.group_scale(panel, k / 32);
      for (int64_t q = 0; q < columns / 4; ++q) {
        I pair[2];
        decode_quad(panel + (k / 4 + q) * 64, pair);
        i_store(tile.weight[p][2 * q], pair[0]);
        i_store(tile.weight[p][2 * q + 1], pair[1]);
      }
    }
    const auto* x = reinterpret_cast<const int32_t*>(args.input) + tokens.begin * stride + k / 2;
    int64_t t = 0;
    for (; t + kTokens <= count; t += kTokens) {
      multiply<kNumPanels, kTokens>(tile, x + t * stride, stride, columns / 2, scale, tile.acc + t);
    }
    for (; t < count; ++t) {
      multiply<kNumPanels, 1>(tile, x + t * stride, stride, columns / 2, scale, tile.acc + t);
    }
  }
  for (int p = 0; p < kNumPanels; ++p) {
    const int64_t row = (first_panel + p) * kPanelRows;
    const int64_t rows = args.rows - row;
    const F bias = args.bias == nullptr ? f_zero() : f_load_first(args.bias + row, rows);
    for (int64_t m = 0; m < count; ++m) {
      f_store_first(args.out + (tokens.begin + m) * args.out_stride + row,
                    f_add(f_load(tile.acc[m] + p * kPanelRows), bias), rows);
    }
  }
}

}  // namespace

void linear_f8(const LinearArgs& args, Range tokens, Range panels) {
  const Weights weights(args);
  Tile tile;
  for (int64_t m = tokens.begin; m < tokens.end; m += kTokenTile) {
    const Range part{m, m + kTokenTile < tokens.end ? m + kTokenTile : tokens.end};
    int64_t p = panels.begin;
    for (; p + kPanels <= panels.end; p += kPanels) {
      run_tile<kPanels>(weights, part, p, tile);
    }
    for (; p < panels.end; ++p) {
      run_tile<1>(weights, part, p, tile);
    }
  }
}

}  // namespace atom::cpu::ATOM_ISA

#endif
