// Linear layers with exact f32 activations over every weight format: a chunk of columns of a few
// panels is decoded to f32 in the L1 cache, then multiplied with fused multiply-adds, column by
// column in order. The f32 sums of a tile stay in memory between chunks, so the order is the same
// for any number of rows.
#include "kernels/cpu/simd/isa_kernels.h"
#include "kernels/cpu/simd/weight_blocks.h"

namespace atom::cpu::ATOM_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kPanels = 4;
constexpr int kTokens = 6;  // 24 accumulators, 4 weights, 1 broadcast
#else
constexpr int kPanels = 1;
constexpr int kTokens = 6;  // 12 ymm accumulators, 2 weights, 1 broadcast
#endif
constexpr int64_t kChunk = 64;      // columns decoded at a time; a multiple of 32
constexpr int64_t kTokenTile = 64;  // tokens that share a decoded chunk

struct Tile {
  float weight[kPanels][kChunk][kPanelRows];  // 16 KiB at 4 panels
  float acc[kTokenTile][kPanels * kPanelRows];
};

// out [count][16] = columns [k, k + count) of a panel
template <class Format>
void decode_quads(const LinearArgs& args, const uint8_t* panel, Range k, float (*out)[kPanelRows]) {
  Format format{};
  format.set_up(args.format, args.cols);
  const I byte = i_set(0xff);
  const F offset = f_set(static_cast<float>(Format::kOffset));
  for (int64_t b = k.begin / 32; b < (k.end + 31) / 32; ++b, out += 32) {
    I quads[8];
    format.quads(panel, b, quads);
    const F minimum = format.minimum(panel, b);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const F scale = format.scale(panel, b, j / 4);
      const I values[4] = {i_and(quads[j], byte), i_and(i_shr<8>(quads[j]), byte),
                           i_and(i_shr<16>(quads[j]), byte), i_shr<24>(quads[j])};
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        f_store(out[j * 4 + i], f_fma(f_sub(to_f32(values[i]), offset), scale, minimum));
      }
    }
  }
}

void decode_bf16(const uint8_t* panel, int64_t k, int64_t count, float (*out)[kPanelRows]) {
  const I high = i_set(static_cast<int32_t>(0xffff0000U));
  for (int64_t i = 0; i < count; i += 2) {  // k is even
    const I pair = i_load(panel + (k + i) / 2 * 64);
    f_store(out[i], as_f32(i_shl<16>(pair)));
    if (i + 1 < count) {
      f_store(out[i + 1], as_f32(i_and(pair, high)));
    }
  }
}

// Each byte of e4m3 with its sign where f32 has it and an exponent 120 too small; the factor 2^120
// corrects that and makes subnormals right as well. NaN (0x7f) would read 480 and is put back.
ATOM_INLINE F decode_f8(I byte, F scale) {
  const I magnitude = i_and(byte, i_set(0x7f));
  const F value = f_mul(as_f32(i_shl<20>(magnitude)), f_set(0x1p120F));
  const I nan = i_and(i_shr<7>(i_add(magnitude, i_set(1))), i_set(1));
  const I sign = i_shl<24>(i_and(byte, i_set(0x80)));
  return f_mul(as_f32(i_or(i_or(as_i32(value), sign), i_sub(i_zero(), nan))), scale);
}

void decode_f8_quads(const LinearArgs& args, const uint8_t* panel, Range k,
                     float (*out)[kPanelRows]) {
  GroupScales scales{};
  scales.set_up(args.format, args.cols);
  const I byte = i_set(0xff);
  for (int64_t b = k.begin / 32; b < (k.end + 31) / 32; ++b) {
    const F scale = scales.group_scale(panel, b);
    for (int j = 0; j < 8; ++j, out += 4) {
      const I quad = i_load(panel + b * 512 + j * 64);
      f_store(out[0], decode_f8(i_and(quad, byte), scale));
      f_store(out[2], decode_f8(i_and(i_shr<8>(quad), byte), scale));
      f_store(out[1], decode_f8(i_and(i_shr<16>(quad), byte), scale));
      f_store(out[3], decode_f8(i_shr<24>(quad), scale));
    }
  }
}

void decode(const LinearArgs& args, const uint8_t* panel, Range k, float (*out)[kPanelRows]) {
  const int64_t count = k.end - k.begin;
  switch (args.format.dtype) {
    case DType::kI8:
      return decode_quads<FormatI8>(args, panel, k, out);
    case DType::kU4:
      return args.format.has_zeros ? decode_quads<FormatU4<true>>(args, panel, k, out)
                                   : decode_quads<FormatU4<false>>(args, panel, k, out);
    case DType::kF4E2M1:
      return decode_quads<FormatF4>(args, panel, k, out);
    case DType::kF8E4M3:
      return decode_f8_quads(args, panel, k, out);
    case DType::kF32:
      memcpy(out, panel + k.begin * 64, static_cast<size_t>(count) * 64);
      return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) {
        f_store(out[i], f_load_f16(panel + (k.begin + i) * 32));
      }
      return;
    case DType::kBF16:
      return decode_bf16(panel, k.begin, count, out);
    case DType::kQ8_0:
      return decode_quads<FormatQ8_0>(args, panel, k, out);
    case DType::kQ4_0:
      return decode_quads<FormatQ4_0>(args, panel, k, out);
    case DType::kQ4_1:
      return decode_quads<FormatQ4_1>(args, panel, k, out);
    case DType::kQ4_K:
      return decode_quads<FormatQ4_K>(args, panel, k, out);
    case DType::kQ6_K:
      return decode_quads<FormatQ6_K>(args, panel, k, out);
    default:
      return;
  }
}

// acc [kNumTokens] += x [kNumTokens, count] . decoded chunk
template <int kNumPanels, int kNumTokens>
ATOM_INLINE void multiply(const Tile& tile, const float* x, int64_t x_stride, int64_t count,
                          float (*sums)[kPanels * kPanelRows]) {
  F acc[kNumTokens][kNumPanels];
#pragma GCC unroll 8
  for (int t = 0; t < kNumTokens; ++t) {
#pragma GCC unroll 8
    for (int p = 0; p < kNumPanels; ++p) {
      acc[t][p] = f_load(sums[t] + p * kPanelRows);
    }
  }
  for (int64_t k = 0; k < count; ++k) {
    F w[kNumPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kNumPanels; ++p) {
      w[p] = f_load(tile.weight[p][k]);
    }
#pragma GCC unroll 8
    for (int t = 0; t < kNumTokens; ++t) {
      const F xk = f_set(x[t * x_stride + k]);
#pragma GCC unroll 8
      for (int p = 0; p < kNumPanels; ++p) {
        acc[t][p] = f_fma(xk, w[p], acc[t][p]);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kNumTokens; ++t) {
#pragma GCC unroll 8
    for (int p = 0; p < kNumPanels; ++p) {
      f_store(sums[t] + p * kPanelRows, acc[t][p]);
    }
  }
}

// One row of x over weights that need no table: straight from memory, the same sums in the same
// order.
template <DType kType, int kNumPanels>
void stream_row(const LinearArgs& args, int64_t token, int64_t first_panel) {
  const int64_t bytes = panel_bytes(args.format, args.cols);
  const uint8_t* weight = args.weight + first_panel * bytes;
  const float* x = args.x + token * args.cols;
  const I high = i_set(static_cast<int32_t>(0xffff0000U));
  F acc[kNumPanels];
#pragma GCC unroll 8
  for (int p = 0; p < kNumPanels; ++p) {
    acc[p] = f_zero();
  }
  constexpr int64_t kStep = kType == DType::kF32 ? 64 : 32;  // bytes of a panel per column
  for (int64_t k = 0; k < args.cols; ++k) {
    prefetch(weight + kNumPanels * (bytes + k * kStep), kNumPanels * kStep);
    const F xk = f_set(x[k]);
#pragma GCC unroll 8
    for (int p = 0; p < kNumPanels; ++p) {
      const uint8_t* panel = weight + p * bytes;
      if constexpr (kType == DType::kF32) {
        acc[p] = f_fma(xk, f_load(reinterpret_cast<const float*>(panel) + k * 16), acc[p]);
      } else if constexpr (kType == DType::kF16) {
        acc[p] = f_fma(xk, f_load_f16(panel + k * 32), acc[p]);
      } else {
        const I pair = i_load(panel + k / 2 * 64);
        acc[p] = f_fma(xk, as_f32(k % 2 == 0 ? i_shl<16>(pair) : i_and(pair, high)), acc[p]);
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kNumPanels; ++p) {
    const int64_t row = (first_panel + p) * kPanelRows;
    const int64_t rows = args.rows - row;
    const F bias = args.bias == nullptr ? f_zero() : f_load_first(args.bias + row, rows);
    f_store_first(args.out + token * args.out_stride + row, f_add(acc[p], bias), rows);
  }
}

template <int kNumPanels>
void run_tile(const LinearArgs& args, Range tokens, int64_t first_panel, Tile& tile) {
  const int64_t bytes = panel_bytes(args.format, args.cols);
  const int64_t count = tokens.end - tokens.begin;
  if (count == 1) {
    switch (args.format.dtype) {
      case DType::kF32:
        return stream_row<DType::kF32, kNumPanels>(args, tokens.begin, first_panel);
      case DType::kF16:
        return stream_row<DType::kF16, kNumPanels>(args, tokens.begin, first_panel);
      case DType::kBF16:
        return stream_row<DType::kBF16, kNumPanels>(args, tokens.begin, first_panel);
      default:
        break;
    }
  }
  memset(tile.acc, 0, sizeof(tile.acc[0]) * static_cast<size_t>(count));
  for (int64_t k = 0; k < args.cols; k += kChunk) {
    const int64_t end = k + kChunk < args.cols ? k + kChunk : args.cols;
    for (int p = 0; p < kNumPanels; ++p) {
      decode(args, args.weight + (first_panel + p) * bytes, {k, end}, tile.weight[p]);
    }
    const float* x = args.x + tokens.begin * args.cols + k;
    int64_t t = 0;
    for (; t + kTokens <= count; t += kTokens) {
      multiply<kNumPanels, kTokens>(tile, x + t * args.cols, args.cols, end - k, tile.acc + t);
    }
    for (; t < count; ++t) {
      multiply<kNumPanels, 1>(tile, x + t * args.cols, args.cols, end - k, tile.acc + t);
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

void linear_f32(const LinearArgs& args, Range tokens, Range panels) {
  Tile tile;
  for (int64_t m = tokens.begin; m < tokens.end; m += kTokenTile) {
    const Range part{m, m + kTokenTile < tokens.end ? m + kTokenTile : tokens.end};
    int64_t p = panels.begin;
    for (; p + kPanels <= panels.end; p += kPanels) {
      run_tile<kPanels>(args, part, p, tile);
    }
    for (; p < panels.end; ++p) {
      run_tile<1>(args, part, p, tile);
    }
  }
}

}  // namespace atom::cpu::ATOM_ISA
