// Linear layers over bf16 weights with AMX tiles: x rounded to bf16, f32 sums. The order in which
// tdpbf16ps adds is its own, so every number of rows goes through it, one included; a row's sum
// does not depend on the rows beside it. Processors without AMX use linear_bf16.cpp or
// linear_f32.cpp.
#if defined(__AMX_BF16__)

#include "kernels/cpu/activation_layout.h"
#include "kernels/cpu/panel_layout.h"
#include "kernels/cpu/simd/amx_tiles.h"
#include "kernels/cpu/simd/isa_kernels.h"
#include "kernels/cpu/simd/vec.h"

namespace atom::cpu::ATOM_ISA {
namespace {

constexpr int64_t kChunkBytes = 64;     // 32 columns of one token
constexpr int64_t kWeightBytes = 1024;  // 32 columns of one panel

struct alignas(64) Sums {
  float tile[4][kTileRows][kPanelRows];  // [2 * token tile + panel]
};

// sums = x . weights, for one or two tiles of tokens, the second `second` tokens after the first.
template <int kNumPanels, int kNumTiles>
ATOM_INLINE void multiply(const LinearArgs& args, int64_t token, int64_t second,
                          int64_t first_panel, Sums& sums) {
  const int64_t chunks = bf16_chunks(args.cols);
  const int64_t bytes = panel_bytes(args.format, args.cols);
  const uint8_t* weight = args.weight + first_panel * bytes;
  const uint8_t* x = args.input + token * kChunkBytes;
  const int64_t step = args.num_tokens * kChunkBytes;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < chunks; ++k, x += step, weight += kWeightBytes) {
    if constexpr (kNumTiles == 1) {  // bound by memory: fetch the next tile meanwhile
      prefetch(weight + kNumPanels * bytes + k * (kNumPanels - 1) * kWeightBytes,
               kNumPanels * kWeightBytes);
    }
    _tile_loadd(4, x, kChunkBytes);
    _tile_loadd(6, weight, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kNumPanels == 2) {
      _tile_loadd(7, weight + bytes, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kNumTiles == 2) {
      _tile_loadd(5, x + second * kChunkBytes, kChunkBytes);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kNumPanels == 2) {
        _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  _tile_stored(0, sums.tile[0], 64);
  if constexpr (kNumPanels == 2) {
    _tile_stored(1, sums.tile[1], 64);
  }
  if constexpr (kNumTiles == 2) {
    _tile_stored(2, sums.tile[2], 64);
    if constexpr (kNumPanels == 2) {
      _tile_stored(3, sums.tile[3], 64);
    }
  }
}

void store(const LinearArgs& args, Range tokens, int64_t panel, const float (*sums)[kPanelRows]) {
  const int64_t row = panel * kPanelRows;
  const int64_t count = args.rows - row;
  const F bias = args.bias == nullptr ? f_zero() : f_load_first(args.bias + row, count);
  for (int64_t m = tokens.begin; m < tokens.end; ++m) {
    f_store_first(args.out + m * args.out_stride + row, f_add(f_load(sums[m - tokens.begin]), bias),
                  count);
  }
}

// Tiles that do not fit at the end move back over tokens already done, whose results come out the
// same.
template <int kNumPanels>
void run_panels(const LinearArgs& args, Range tokens, int64_t first_panel) {
  const int64_t count = tokens.end - tokens.begin;
  const int64_t rows = count < kTileRows ? count : kTileRows;
  Sums sums;
  for (int64_t done = 0; done < count; done += 2 * kTileRows) {
    const int64_t last = tokens.end - rows;
    const int64_t first = tokens.begin + done < last ? tokens.begin + done : last;
    const int64_t second = first + rows < last ? first + rows : last;
    if (second > first) {
      multiply<kNumPanels, 2>(args, first, second - first, first_panel, sums);
    } else {
      multiply<kNumPanels, 1>(args, first, 0, first_panel, sums);
    }
    for (int p = 0; p < kNumPanels; ++p) {
      store(args, {first, first + rows}, first_panel + p, sums.tile[p]);
      if (second > first) {
        store(args, {second, second + rows}, first_panel + p, sums.tile[2 + p]);
      }
    }
  }
}

}  // namespace

// x as [chunks of 32 columns][num_tokens][32] bf16, padded with zero: a tile is one run of memory.
void prepare_bf16_tiles(const float* x, int64_t num_tokens, int64_t cols, uint8_t* out,
                        Range tokens) {
  for (int64_t m = tokens.begin; m < tokens.end; ++m) {
    for (int64_t k = 0; k < bf16_chunks(cols) * 32; k += 16) {
      uint8_t* at = out + (k / 32 * num_tokens + m) * kChunkBytes + k % 32 * 2;
      const int64_t count = cols - k;
      i_store_u16(at, count > 0 ? to_bf16(f_load_first(x + m * cols + k, count)) : i_zero());
    }
  }
}

void linear_bf16_tiles(const LinearArgs& args, Range tokens, Range panels) {
  const int64_t count = tokens.end - tokens.begin;
  tiles_configure(count < kTileRows ? count : kTileRows, 64);
  int64_t p = panels.begin;
  for (; p + 2 <= panels.end; p += 2) {
    run_panels<2>(args, tokens, p);
  }
  if (p < panels.end) {
    run_panels<1>(args, tokens, p);
  }
  _tile_release();
}

}  // namespace atom::cpu::ATOM_ISA

#endif
