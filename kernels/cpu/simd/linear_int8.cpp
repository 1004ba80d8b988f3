// Linear layers over 8-bit integer weights with one scale per row, x rounded to 8-bit integers with
// one scale per token (largest magnitude = 127): the product that INT8 checkpoints (W8A8, dynamic
// per token) define. One exact integer sum over the whole row, then
//   out = (sum - 128 * sum(x)) * dx * dw + bias,
// half the dot products of linear_int16.cpp and no work per block. Needs VNNI; with AMX, tiles give
// the same sums.
#include "kernels/cpu/activation_layout.h"
#include "kernels/cpu/simd/isa_kernels.h"
#include "kernels/cpu/simd/next_tile.h"
#include "kernels/cpu/simd/weight_blocks.h"
#if defined(__AMX_INT8__)
#include "kernels/cpu/simd/amx_tiles.h"
#endif

namespace atom::cpu::ATOM_ISA {

// Not a number or infinite: the token's scale is NaN, and so are its outputs.
void prepare_int8(const float* x, int64_t num_tokens, int64_t cols, uint8_t* out, Range tokens) {
  const Int8View view(out, num_tokens, cols);
  const int64_t columns = Int8View::columns(cols);
  for (int64_t m = tokens.begin; m < tokens.end; ++m) {
    const float* row = x + m * cols;
    F top = f_zero();
    F poison = f_zero();
    for (int64_t k = 0; k < cols; k += 16) {
      const F value = f_load_first(row + k, cols - k);
      top = f_max(top, f_abs(value));
      poison = f_add(poison, f_mul(value, f_zero()));
    }
    const float highest = f_highest(top);
    const bool bad = f_any_nan(poison);
    const bool usable = !bad && highest > 1e-30F;
    const F inverse = f_set(usable ? 127.0F / highest : 0.0F);
    I sum = i_zero();
    for (int64_t k = 0; k < columns; k += 16) {
      const I value =
          usable && k < cols ? to_i32(f_mul(f_load_first(row + k, cols - k), inverse)) : i_zero();
      sum = i_add(sum, value);
#if defined(__AMX_INT8__)
      i_store_u8(view.values + (k / 64 * num_tokens + m) * 64 + k % 64, value);
#else
      i_store_u8(view.values + m * columns + k, value);
#endif
    }
    view.sums[m] = i_sum(sum);
    view.scales[m] = bad ? __builtin_nanf("") : (usable ? highest / 127.0F : 0.0F);
  }
}

#if defined(__AVX512VNNI__)
namespace {

// Sums of one panel for tokens from `token`, as outputs.
struct Output {
  const LinearArgs& args;
  Int8View x;
  GroupScales scales;

  ATOM_INLINE_MEMBER explicit Output(const LinearArgs& linear)
      : args(linear), x(linear.input, linear.num_tokens, linear.cols), scales{} {
    scales.set_up(linear.format, linear.cols);
  }
  ATOM_INLINE_MEMBER void store(int64_t token, int64_t panel, F weight_scale, I sum) const {
    const int64_t row = panel * kPanelRows;
    const int64_t count = args.rows - row;
    const F bias = args.bias == nullptr ? f_zero() : f_load_first(args.bias + row, count);
    const F exact = to_f32(i_sub(sum, i_set(128 * x.sums[token])));
    f_store_first(args.out + token * args.out_stride + row,
                  f_fma(f_mul(exact, f_set(x.scales[token])), weight_scale, bias), count);
  }
};

#if !defined(__AMX_INT8__)

constexpr int kPanels = 4;
constexpr int kTokens = 6;      // 24 sums, 4 weights, 1 broadcast
constexpr int kFewTokens = 2;   // bound by memory: as many streams as registers allow
constexpr int kManyPanels = 8;  // 16 sums, 8 weights

// sums [kNumTokens][kNumPanels][16]; apart from what becomes of them, else the compiler keeps the
// sums in memory during the loop.
template <int kNumPanels, int kNumTokens>
__attribute__((noinline)) void sum_tile(const LinearArgs& args, const int8_t* x,
                                        const uint8_t* weight, const uint8_t* next, int32_t* sums) {
  const int64_t columns = Int8View::columns(args.cols);
  const int64_t bytes = panel_bytes(args.format, args.cols);
  I acc[kNumTokens][kNumPanels];
#pragma GCC unroll 8
  for (int t = 0; t < kNumTokens; ++t) {
#pragma GCC unroll 8
    for (int p = 0; p < kNumPanels; ++p) {
      acc[t][p] = i_zero();
    }
  }
  for (int64_t k = 0; k < columns; k += 4) {
    if constexpr (kNumTokens <= kFewTokens) {  // fetch the next tile meanwhile
      prefetch<kNumPanels * 64>(next + k * kNumPanels * 16);
    }
    I w[kNumPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kNumPanels; ++p) {
      w[p] = i_load(weight + p * bytes + k * 16);
    }
#pragma GCC unroll 8
    for (int t = 0; t < kNumTokens; ++t) {
      int32_t word = 0;
      memcpy(&word, x + t * columns + k, sizeof(word));
      const I xk = i_set(word);
#pragma GCC unroll 8
      for (int p = 0; p < kNumPanels; ++p) {
        acc[t][p] = dot4(acc[t][p], w[p], xk);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kNumTokens; ++t) {
#pragma GCC unroll 8
    for (int p = 0; p < kNumPanels; ++p) {
      i_store(sums + (t * kNumPanels + p) * kPanelRows, acc[t][p]);
    }
  }
}

template <int kNumPanels, int kNumTokens>
void run_tile(const Output& output, int64_t token, int64_t first_panel) {
  const LinearArgs& args = output.args;
  const int64_t bytes = panel_bytes(args.format, args.cols);
  const uint8_t* weight = args.weight + first_panel * bytes;
  alignas(64) int32_t sums[kNumTokens][kNumPanels][kPanelRows];
  sum_tile<kNumPanels, kNumTokens>(args, output.x.values + token * Int8View::columns(args.cols),
                                   weight, next_tile(args, first_panel + kNumPanels, bytes),
                                   sums[0][0]);
  for (int p = 0; p < kNumPanels; ++p) {
    const F scale = output.scales.group_scale(weight + p * bytes, 0);
    for (int t = 0; t < kNumTokens; ++t) {
      output.store(token + t, first_panel + p, scale, i_load(sums[t][p]));
    }
  }
}

template <int kNumPanels>
void run_panels(const Output& output, Range tokens, int64_t first_panel) {
  int64_t t = tokens.begin;
  for (; kNumPanels <= kPanels && t + kTokens <= tokens.end; t += kTokens) {
    run_tile<kNumPanels, kNumPanels <= kPanels ? kTokens : 1>(output, t, first_panel);
  }
  for (; t + 2 <= tokens.end; t += 2) {
    run_tile<kNumPanels, 2>(output, t, first_panel);
  }
  if (t < tokens.end) {
    run_tile<kNumPanels, 1>(output, t, first_panel);
  }
}

#else

constexpr int kPanels = 2;

struct alignas(64) Sums {
  int32_t tile[2][kTileRows][kPanelRows];  // [panel]
};

// One tile of up to 16 tokens; a last one moves back over tokens already done, whose results come
// out the same.
template <int kNumPanels>
void run_panels(const Output& output, Range tokens, int64_t first_panel) {
  const LinearArgs& args = output.args;
  const int64_t bytes = panel_bytes(args.format, args.cols);
  const uint8_t* panel = args.weight + first_panel * bytes;
  const int64_t count = tokens.end - tokens.begin;
  const int64_t rows = count < kTileRows ? count : kTileRows;
  Sums sums;
  for (int64_t done = 0; done < count; done += kTileRows) {
    const int64_t token = done + rows <= count ? tokens.begin + done : tokens.end - rows;
    _tile_zero(0);
    _tile_zero(1);
    for (int64_t k = 0; k < Int8View::columns(args.cols); k += 64) {
      if (count <= kTileRows) {  // bound by memory: fetch the next tile meanwhile
        prefetch(panel + kNumPanels * bytes + k * 16 * kNumPanels, kNumPanels * 1024);
      }
      _tile_loadd(4, output.x.values + (k / 64 * args.num_tokens + token) * 64, 64);
      _tile_loadd(6, panel + k * 16, 64);
      _tile_dpbsud(0, 4, 6);
      if constexpr (kNumPanels == 2) {
        _tile_loadd(7, panel + bytes + k * 16, 64);
        _tile_dpbsud(1, 4, 7);
      }
    }
    _tile_stored(0, sums.tile[0], 64);
    if constexpr (kNumPanels == 2) {
      _tile_stored(1, sums.tile[1], 64);
    }
    tiles_fence();
    for (int p = 0; p < kNumPanels; ++p) {
      const F scale = output.scales.group_scale(panel + p * bytes, 0);
      for (int64_t t = 0; t < rows; ++t) {
        output.store(token + t, first_panel + p, scale, i_load(sums.tile[p][t]));
      }
    }
  }
}

#endif

}  // namespace

void linear_int8(const LinearArgs& args, Range tokens, Range panels) {
  const Output output(args);
#if defined(__AMX_INT8__)
  const int64_t count = tokens.end - tokens.begin;
  tiles_configure(count < kTileRows ? count : kTileRows, 64);
#endif
  int64_t p = panels.begin;
#if !defined(__AMX_INT8__)
  for (; tokens.end - tokens.begin <= kFewTokens && p + kManyPanels <= panels.end;
       p += kManyPanels) {
    run_panels<kManyPanels>(output, tokens, p);
  }
#endif
  for (; p + kPanels <= panels.end; p += kPanels) {
    run_panels<kPanels>(output, tokens, p);
  }
  for (; p < panels.end; ++p) {
    run_panels<1>(output, tokens, p);
  }
#if defined(__AMX_INT8__)
  _tile_release();
#endif
}

#endif

}  // namespace atom::cpu::ATOM_ISA
