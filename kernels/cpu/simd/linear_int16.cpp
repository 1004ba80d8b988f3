// Linear layers over quantised weights with 16-bit activations: x is quantised per 32 columns to
// integers of 16 bits, kept as two signed byte planes (x = 256 * high + low), and multiplied
// exactly by the stored weight integers with byte dot products. Per 32 columns the exact integer
// sum becomes f32 once:
//   acc = fma(float(sum) * dx, dw, acc), then, for formats with a minimum, acc = fma(dx * sum(x),
//   m, acc).
// The error is that of 16-bit activations (normalised MSE about 1e-9; bf16 has 1e-6), and integer
// sums have no order: one row of x or many, the bits are the same. Two byte planes cost as much as
// bf16 dot products and need only VNNI; with AMX, tiles compute the same sums for many rows at
// once. Not here: f32, f16 and bf16 weights, exact activations (linear_f32.cpp).
#include "kernels/cpu/activation_layout.h"
#include "kernels/cpu/simd/isa_kernels.h"
#include "kernels/cpu/simd/weight_blocks.h"
#if defined(__AMX_INT8__)
#include "kernels/cpu/simd/int16_tiles.h"
#endif

namespace atom::cpu::ATOM_ISA {
namespace {

constexpr int kPanels = 2;           // panels per tile: 16 registers of weights
constexpr int64_t kTokenTile = 128;  // tokens that share an unpacked block; the f32 tile is 16 KiB
constexpr int64_t kPrefetchTokens = 8;  // up to here the weights come at the speed of memory
constexpr int kTokens = 4;              // tokens in flight: 8 independent sums hide the latency

struct Tile {
  float acc[kTokenTile][kPanels * kPanelRows];
};

template <class Format, int kNumPanels>
struct Block {
  I quads[kNumPanels][8];
  F scale[kNumPanels][Format::kSplit ? 2 : 1];
  F minimum[kNumPanels];
};

template <class Format, int kNumPanels>
ATOM_INLINE void load_block(const Format& format, const uint8_t* const* panel, int64_t b,
                            Block<Format, kNumPanels>& block) {
#pragma GCC unroll 2
  for (int p = 0; p < kNumPanels; ++p) {
    format.quads(panel[p], b, block.quads[p]);
    block.scale[p][0] = format.scale(panel[p], b, 0);
    if constexpr (Format::kSplit) {
      block.scale[p][1] = format.scale(panel[p], b, 1);
    }
    if constexpr (Format::kHasMin) {
      block.minimum[p] = format.minimum(panel[p], b);
    }
  }
}

ATOM_INLINE I broadcast4(const int8_t* p) {
  int32_t word = 0;
  memcpy(&word, p, sizeof(word));
  return i_set(word);
}

// acc += the exact byte sum of one part of a block, as f32.
template <class Format, int kNumPanels>
ATOM_INLINE void add_sum(const Block<Format, kNumPanels>& block, const Int16View& x, int64_t index,
                         int part, int p, I sum, float* acc) {
  constexpr int kParts = Format::kSplit ? 2 : 1;
  const I exact = Format::kOffset == 0
                      ? sum
                      : i_sub(sum, i_set(Format::kOffset * x.half_sum(index, part, kParts)));
  F total = f_load(acc + p * kPanelRows);
  total = f_fma(f_mul(to_f32(exact), f_set(x.scale[index])), block.scale[p][part], total);
  if constexpr (Format::kHasMin) {
    total = f_fma(f_set(x.scaled_sum[index]), block.minimum[p], total);
  }
  f_store(acc + p * kPanelRows, total);
}

// acc[t][p] += block . x[t], for kNumTokens tokens from token m of block b.
template <class Format, int kNumPanels, int kNumTokens>
ATOM_INLINE void add_block(const Block<Format, kNumPanels>& block, const Int16View& x,
                           int64_t index, float (*acc)[kPanels * kPanelRows]) {
  constexpr int kParts = Format::kSplit ? 2 : 1;  // sums per 32 columns
  constexpr int kQuads = 8 / kParts;
#pragma GCC unroll 2
  for (int part = 0; part < kParts; ++part) {
    I sum[kNumTokens][kNumPanels];
#pragma GCC unroll 2
    for (int plane = 0; plane < 2; ++plane) {  // high, then low
#pragma GCC unroll 8
      for (int j = 0; j < kQuads; ++j) {
#pragma GCC unroll 4
        for (int t = 0; t < kNumTokens; ++t) {
          const I xq = broadcast4(x.planes[index + t].value[plane] + (part * kQuads + j) * 4);
#pragma GCC unroll 2
          for (int p = 0; p < kNumPanels; ++p) {
            const I start = plane == 0 ? i_zero() : i_shl<8>(sum[t][p]);
            sum[t][p] = dot4(j == 0 ? start : sum[t][p], block.quads[p][part * kQuads + j], xq);
          }
        }
      }
    }
#pragma GCC unroll 4
    for (int t = 0; t < kNumTokens; ++t) {
#pragma GCC unroll 2
      for (int p = 0; p < kNumPanels; ++p) {
        add_sum(block, x, index + t, part, p, sum[t][p], acc[t]);
      }
    }
  }
}

#if defined(__AMX_INT8__)

// acc[t] += sums of panel p, for the last `tokens` of a tile.
template <class Format, int kNumPanels>
ATOM_INLINE void add_tile(const Block<Format, kNumPanels>& block, const Int16View& x, int64_t index,
                          int part, int p, Range tokens, const TileSums& sums,
                          float (*acc)[kPanels * kPanelRows]) {
  const int64_t skip = kTileRows - (tokens.end - tokens.begin);
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    const int64_t row = skip + t - tokens.begin;
    const I sum = i_add(i_shl<8>(i_load(sums.plane[0][row])), i_load(sums.plane[1][row]));
    add_sum(block, x, index + t, part, p, sum, acc[t]);
  }
}

// acc[t][p] += block . x[t], for `count` tokens from `index`, in tiles of 16. The last tile moves
// back over tokens already done, which are not added again. Three stages overlap: while a panel's
// products are computed, those of the panel before are stored, and those before that become f32.
template <class Format, int kNumPanels>
ATOM_INLINE void add_block_tiles(const Block<Format, kNumPanels>& block, const Int16View& x,
                                 int64_t index, int64_t count, float (*acc)[kPanels * kPanelRows],
                                 TileScratch& scratch) {
  constexpr int kParts = Format::kSplit ? 2 : 1;
#pragma GCC unroll 2
  for (int part = 0; part < kParts; ++part) {
    load_weight_tiles<kNumPanels, 8 / kParts>(block.quads, part, scratch);
    for (int64_t t = 0; t < count + kTileRows; t += kTileRows) {
      const Range before{t - kTileRows, t < count ? t : count};  // the tile one step behind
      const bool more = t < count;
      if (more) {
        const int64_t first = t + kTileRows < count ? t : count - kTileRows;
        multiply_first(x.planes + index + first, part * 16);
      }
      if (t > 0) {
        if constexpr (kNumPanels == 2) {
          store_second(scratch.sums[1]);
        }
        add_tile(block, x, index, part, 0, before, scratch.sums[0], acc);
      }
      if (more) {
        if constexpr (kNumPanels == 2) {
          multiply_second();
        }
        store_first(scratch.sums[0]);
      }
      if constexpr (kNumPanels == 2) {
        if (t > 0) {
          add_tile(block, x, index, part, 1, before, scratch.sums[1], acc);
        }
      }
    }
  }
}

#endif

template <class Format, int kNumPanels>
void run_tile(const LinearArgs& args, const Int16View& x, Range tokens, int64_t first_panel,
              Tile& tile) {
  const int64_t blocks = column_blocks(args.cols);
  Format format{};
  format.set_up(args.format, args.cols);
  const int64_t bytes = panel_bytes(args.format, args.cols);
  const uint8_t* panel[kNumPanels];
  for (int p = 0; p < kNumPanels; ++p) {
    panel[p] = args.weight + (first_panel + p) * bytes;
  }
  const int64_t count = tokens.end - tokens.begin;
  memset(tile.acc, 0, sizeof(tile.acc[0]) * static_cast<size_t>(count));
  const int64_t ahead = kNumPanels * bytes / blocks;
#if defined(__AMX_INT8__)
  TileScratch scratch;
#endif
  for (int64_t b = 0; b < blocks; ++b) {
    if (count <= kPrefetchTokens) {
      prefetch(panel[0] + kNumPanels * bytes + b * ahead, ahead);
    }
    Block<Format, kNumPanels> block;
    load_block(format, panel, b, block);
    const int64_t index = b * args.num_tokens + tokens.begin;
#if defined(__AMX_INT8__)
    if (count >= kTileRows) {
      add_block_tiles(block, x, index, count, tile.acc, scratch);
      continue;
    }
#endif
    int64_t t = 0;
    for (; t + kTokens <= count; t += kTokens) {
      add_block<Format, kNumPanels, kTokens>(block, x, index + t, tile.acc + t);
    }
    for (; t < count; ++t) {
      add_block<Format, kNumPanels, 1>(block, x, index + t, tile.acc + t);
    }
  }
}

void store_tile(const LinearArgs& args, Range tokens, int64_t first_panel, int num_panels,
                const Tile& tile) {
  for (int p = 0; p < num_panels; ++p) {
    const int64_t row = (first_panel + p) * kPanelRows;
    const int64_t count = args.rows - row;
    const F bias = args.bias == nullptr ? f_zero() : f_load_first(args.bias + row, count);
    for (int64_t m = tokens.begin; m < tokens.end; ++m) {
      const F sum = f_load(tile.acc[m - tokens.begin] + p * kPanelRows);
      f_store_first(args.out + m * args.out_stride + row, f_add(sum, bias), count);
    }
  }
}

template <class Format>
void run(const LinearArgs& args, Range tokens, Range panels) {
  const Int16View x(args.input, args.num_tokens, args.cols);
  Tile tile;
#if defined(__AMX_INT8__)
  tiles_configure(kTileRows, Format::kSplit ? 16 : 32);
#endif
  for (int64_t p = panels.begin; p < panels.end; p += kPanels) {
    for (int64_t m = tokens.begin; m < tokens.end; m += kTokenTile) {
      const Range part{m, m + kTokenTile < tokens.end ? m + kTokenTile : tokens.end};
      if (p + kPanels <= panels.end) {
        run_tile<Format, kPanels>(args, x, part, p, tile);
        store_tile(args, part, p, kPanels, tile);
      } else {
        run_tile<Format, 1>(args, x, part, p, tile);
        store_tile(args, part, p, 1, tile);
      }
    }
  }
#if defined(__AMX_INT8__)
  _tile_release();
#endif
}

// One row of x: the largest magnitude of 32 columns becomes 127 * 256, so both planes fit signed
// bytes. Not a number or infinite: the scale of the block is NaN, and so is every output that uses
// it.
ATOM_INLINE void quantize_block(const float* x, int64_t count, Int16View& out, int64_t index) {
  const F a = f_load_first(x, count);
  const F b = count > 16 ? f_load_first(x + 16, count - 16) : f_zero();
  const float top = f_highest(f_max(f_abs(a), f_abs(b)));
  const F poison = f_add(f_mul(a, f_zero()), f_mul(b, f_zero()));
  const bool usable = top > 1e-30F && !f_any_nan(poison);
  const F inverse = f_set(usable ? 32512.0F / top : 0.0F);
  const float scale = f_any_nan(poison) ? __builtin_nanf("") : (usable ? top / 32512.0F : 0.0F);
  int32_t sums[2] = {0, 0};
  for (int half = 0; half < 2; ++half) {
    const I value = usable ? to_i32(f_mul(half == 0 ? a : b, inverse)) : i_zero();
    const I high = i_sar<8>(i_add(value, i_set(128)));
    i_store_u8(out.planes[index].value[0] + half * 16, high);
    i_store_u8(out.planes[index].value[1] + half * 16, i_sub(value, i_shl<8>(high)));
    sums[half] = i_sum(value);
  }
  out.scale[index] = scale;
  out.sums[index].half[0] = sums[0];
  out.sums[index].half[1] = sums[1];
  out.scaled_sum[index] = scale * static_cast<float>(sums[0] + sums[1]);
}

}  // namespace

void prepare_int16(const float* x, int64_t num_tokens, int64_t cols, uint8_t* out, Range tokens) {
  Int16View view(out, num_tokens, cols);
  for (int64_t m = tokens.begin; m < tokens.end; ++m) {
    for (int64_t b = 0; b < column_blocks(cols); ++b) {
      quantize_block(x + m * cols + b * 32, cols - b * 32, view, b * num_tokens + m);
    }
  }
}

void linear_int16(const LinearArgs& args, Range tokens, Range panels) {
  switch (args.format.dtype) {
    case DType::kI8:
      return run<FormatI8>(args, tokens, panels);
    case DType::kU4:
      return args.format.has_zeros ? run<FormatU4<true>>(args, tokens, panels)
                                   : run<FormatU4<false>>(args, tokens, panels);
    case DType::kF4E2M1:
      return run<FormatF4>(args, tokens, panels);
    case DType::kQ8_0:
      return run<FormatQ8_0>(args, tokens, panels);
    case DType::kQ4_0:
      return run<FormatQ4_0>(args, tokens, panels);
    case DType::kQ4_1:
      return run<FormatQ4_1>(args, tokens, panels);
    case DType::kQ4_K:
      return run<FormatQ4_K>(args, tokens, panels);
    case DType::kQ6_K:
      return run<FormatQ6_K>(args, tokens, panels);
    default:
      return;
  }
}

}  // namespace atom::cpu::ATOM_ISA
