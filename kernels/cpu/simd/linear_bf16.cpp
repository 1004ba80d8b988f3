// Linear layers with bf16 dot products: bf16 weights and x rounded to bf16, f32 sums. Per output,
// pairs of columns are added in order by vdpbf16ps; nothing depends on the number of rows. Only for
// processors with the bf16 unit; others use linear_f32.cpp, with AMX linear_bf16_amx.cpp.
#include "kernels/cpu/activation_layout.h"
#include "kernels/cpu/panel_layout.h"
#include "kernels/cpu/simd/isa_kernels.h"
#include "kernels/cpu/simd/next_tile.h"
#include "kernels/cpu/simd/vec.h"

namespace atom::cpu::ATOM_ISA {

void prepare_bf16(const float* x, int64_t, int64_t cols, uint8_t* out, Range tokens) {
  const int64_t stride = bf16_pairs(cols) * 2;
  for (int64_t m = tokens.begin; m < tokens.end; ++m) {
    auto* row = reinterpret_cast<uint16_t*>(out) + m * stride;
    const float* values = x + m * cols;
    int64_t k = 0;
    for (; k + 16 <= cols; k += 16) {
      i_store_u16(row + k, to_bf16(f_load(values + k)));
    }
    for (; k < stride; k += 16) {
      i_store_u16(row + k, k < cols ? to_bf16(f_load_first(values + k, cols - k)) : i_zero());
    }
  }
}

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
namespace {

constexpr int kPanels = 4;
constexpr int kTokens = 6;  // 24 accumulators, 4 weights, 1 broadcast
// Of a tile that is bound by memory: as many streams as registers allow (16 accumulators, 8
// weights). Zen 4, experts of 192 KB in random order: 4 panels read 37 GB/s, 8 read 46.
constexpr int kFewTokens = 2;
constexpr int kManyPanels = 8;

template <int kNumPanels, int kNumTokens>
void run_tile(const LinearArgs& args, int64_t token, int64_t first_panel) {
  const int64_t pairs = bf16_pairs(args.cols);
  const int64_t bytes = panel_bytes(args.format, args.cols);
  const uint8_t* weight = args.weight + first_panel * bytes;
  const auto* x = reinterpret_cast<const int32_t*>(args.input) + token * pairs;
  F acc[kNumTokens][kNumPanels];
#pragma GCC unroll 8
  for (int t = 0; t < kNumTokens; ++t) {
#pragma GCC unroll 8
    for (int p = 0; p < kNumPanels; ++p) {
      acc[t][p] = f_zero();
    }
  }
  const uint8_t* next = next_tile(args, first_panel + kNumPanels, bytes);
  for (int64_t k = 0; k < pairs; ++k) {
    if constexpr (kNumTokens <= kFewTokens) {  // bound by memory: fetch the next tile meanwhile
      prefetch<kNumPanels * 64>(next + k * kNumPanels * 64);
    }
    __m512bh w[kNumPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kNumPanels; ++p) {
      w[p] = reinterpret_cast<__m512bh>(i_load(weight + p * bytes + k * 64));
    }
#pragma GCC unroll 8
    for (int t = 0; t < kNumTokens; ++t) {
      const auto xk = reinterpret_cast<__m512bh>(i_set(x[t * pairs + k]));
#pragma GCC unroll 8
      for (int p = 0; p < kNumPanels; ++p) {
        acc[t][p] = _mm512_dpbf16_ps(acc[t][p], w[p], xk);
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < kNumPanels; ++p) {
    const int64_t row = (first_panel + p) * kPanelRows;
    const int64_t count = args.rows - row;
    const F bias = args.bias == nullptr ? f_zero() : f_load_first(args.bias + row, count);
#pragma GCC unroll 8
    for (int t = 0; t < kNumTokens; ++t) {
      f_store_first(args.out + (token + t) * args.out_stride + row, f_add(acc[t][p], bias), count);
    }
  }
}

template <int kNumPanels>
void run_panels(const LinearArgs& args, Range tokens, int64_t first_panel) {
  int64_t t = tokens.begin;
  for (; t + kTokens <= tokens.end; t += kTokens) {
    run_tile<kNumPanels, kTokens>(args, t, first_panel);
  }
  switch (tokens.end - t) {
    case 1:
      return run_tile<kNumPanels, 1>(args, t, first_panel);
    case 2:
      return run_tile<kNumPanels, 2>(args, t, first_panel);
    case 3:
      return run_tile<kNumPanels, 3>(args, t, first_panel);
    case 4:
      return run_tile<kNumPanels, 4>(args, t, first_panel);
    case 5:
      return run_tile<kNumPanels, 5>(args, t, first_panel);
    default:
      return;
  }
}

}  // namespace

void linear_bf16(const LinearArgs& args, Range tokens, Range panels) {
  int64_t p = panels.begin;
  const int64_t count = tokens.end - tokens.begin;
  for (; count <= kFewTokens && p + kManyPanels <= panels.end; p += kManyPanels) {
    if (count == 2) {
      run_tile<kManyPanels, 2>(args, tokens.begin, p);
    } else if (count == 1) {
      run_tile<kManyPanels, 1>(args, tokens.begin, p);
    }
  }
  for (; p + kPanels <= panels.end; p += kPanels) {
    run_panels<kPanels>(args, tokens, p);
  }
  for (; p < panels.end; ++p) {
    run_panels<1>(args, tokens, p);
  }
}

#endif

}  // namespace atom::cpu::ATOM_ISA
