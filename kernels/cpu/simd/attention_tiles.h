// What the attention kernels share: register-tiled products over a block of kKeys keys, values of
// the cache as vectors, and the online softmax of one block. No result depends on which rows are
// multiplied together.
#pragma once

#include <math.h>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd/cache_rows.h"
#include "kernels/cpu/simd/vec.h"

namespace atom::cpu::ATOM_ISA {

constexpr int64_t kKeys = 64;     // per block
constexpr int64_t kMaxRows = 32;  // query rows that share a loaded block
#if defined(__AVX512F__)
constexpr int kTileRows = 6, kTileVecs = 4;
#else
constexpr int kTileRows = 3, kTileVecs = 2;
#endif

// c[r][n] += sum over k in [k_begin, k_end), in order, of a[r][k] * b[k][n], for 16 * kVecs
// columns.
template <int kRows, int kVecs>
ATOM_INLINE void multiply(const float* const* a, const float* b, int64_t b_stride, Range k,
                          float* c, int64_t c_stride) {
  F acc[kRows][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) {
      acc[r][v] = f_load(c + r * c_stride + v * 16);
    }
  }
  for (int64_t i = k.begin; i < k.end; ++i) {
    F row[kVecs];
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) {
      row[v] = f_load(b + i * b_stride + v * 16);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const F factor = f_set(a[r][i]);
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
        acc[r][v] = f_fma(factor, row[v], acc[r][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) {
      f_store(c + r * c_stride + v * 16, acc[r][v]);
    }
  }
}

template <int kRows>
static inline void multiply_width(const float* const* a, const float* b, int64_t width, Range k,
                                  float* c) {
  int64_t n = 0;
  for (; n + kTileVecs * 16 <= width; n += kTileVecs * 16) {
    multiply<kRows, kTileVecs>(a, b + n, width, k, c + n, width);
  }
  for (; n < width; n += 16) {
    multiply<kRows, 1>(a, b + n, width, k, c + n, width);
  }
}

// c [rows, width] += a [rows, k] . b [k, width]
static inline void multiply_rows(const float* const* a, int64_t rows, const float* b, int64_t width,
                                 Range k, float* c) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    multiply_width<kTileRows>(a + r, b, width, k, c + r * width);
  }
  if (r + 4 <= rows && kTileRows > 4) {
    multiply_width<4>(a + r, b, width, k, c + r * width);
    r += 4;
  }
  for (; r + 2 <= rows; r += 2) {
    multiply_width<2>(a + r, b, width, k, c + r * width);
  }
  if (r < rows) {
    multiply_width<1>(a + r, b, width, k, c + r * width);
  }
}

template <DType kType>
ATOM_INLINE F load_first(const uint8_t* row, int64_t i, int64_t size) {
  if (i + 16 <= size) {
    return load_cache<kType>(row, i);
  }
  uint8_t lanes[64] = {};
  const int64_t bytes = cache_value_bytes(kType);
  memcpy(lanes, row + i * bytes, static_cast<size_t>((size - i) * bytes));
  return load_cache<kType>(lanes, 0);
}

// One block of scores of a row becomes weights; the row's running maximum and total are renewed.
// Returns by how much the row's earlier sums shrink.
ATOM_INLINE F softmax_block(float* scores, Range keys, float scale, float* top, float* total) {
  for (int64_t j = 0; j < keys.begin; ++j) {
    scores[j] = -INFINITY;
  }
  for (int64_t j = keys.end; j < kKeys; ++j) {
    scores[j] = -INFINITY;
  }
  F s[kKeys / 16];
  F highest = f_set(*top);
  const F factor = f_set(scale);
#pragma GCC unroll 4
  for (int v = 0; v < kKeys / 16; ++v) {
    s[v] = f_mul(f_load(scores + v * 16), factor);
    highest = f_max(highest, s[v]);
  }
  const float new_top = f_highest(highest);
  const F shrink = f_exp(f_set(*top - new_top));
  F sum = f_mul(f_load(total), shrink);
#pragma GCC unroll 4
  for (int v = 0; v < kKeys / 16; ++v) {
    s[v] = f_exp(f_sub(s[v], f_set(new_top)));
    f_store(scores + v * 16, s[v]);
  }
  for (int64_t j = 0; j < keys.begin; ++j) {
    scores[j] = 0.0F;
  }
  for (int64_t j = keys.end; j < kKeys; ++j) {
    scores[j] = 0.0F;
  }
#pragma GCC unroll 4
  for (int v = 0; v < kKeys / 16; ++v) {
    sum = f_add(sum, f_load(scores + v * 16));
  }
  f_store(total, sum);
  *top = new_top;
  return shrink;
}

}  // namespace atom::cpu::ATOM_ISA
