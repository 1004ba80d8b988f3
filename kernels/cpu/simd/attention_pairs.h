// The products of attention over a bf16 cache by bf16 dot products, two values of a sum at a time:
// twice the rate of f32, without expanding the cache. What is multiplied with the cache (queries,
// weights of values) is rounded to bf16; sums are f32. Only for processors on which these products
// are the faster ones (not Intel's, see linear_bf16_amx.cpp). No result depends on which rows are
// multiplied together.
#pragma once

#include "kernels/cpu/simd/attention_tiles.h"

namespace atom::cpu::ATOM_ISA {

#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
ATOM_INLINE void store_bf16(uint16_t* out, F x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                      reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
}

// a [rows, a_stride] bf16; b [pairs, stride] words of two bf16, of which the first `count` values
// are summed up; c [rows, stride] += a . b for 16 * kVecs columns.
struct PairProduct {
  const uint16_t* a;
  int64_t a_stride;
  const uint32_t* b;
  int64_t stride;
  int64_t count;
  float* c;
};

template <int kRows, int kVecs>
ATOM_INLINE void add_pair(const PairProduct& p, const uint16_t* a, const uint32_t* b, I mask,
                          F acc[kRows][kVecs]) {
  __m512bh words[kVecs];
#pragma GCC unroll 8
  for (int v = 0; v < kVecs; ++v) {
    words[v] = reinterpret_cast<__m512bh>(i_and(i_load(b + v * 16), mask));
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    int32_t word = 0;
    memcpy(&word, a + r * p.a_stride, sizeof(word));
    const auto factor = reinterpret_cast<__m512bh>(i_set(word));
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) {
      acc[r][v] = _mm512_dpbf16_ps(acc[r][v], words[v], factor);
    }
  }
}

template <int kRows, int kVecs>
ATOM_INLINE void multiply_pairs(const PairProduct& p, int64_t row, int64_t column) {
  const uint16_t* a = p.a + row * p.a_stride;
  const uint32_t* b = p.b + column;
  float* c = p.c + row * p.stride + column;
  F acc[kRows][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) {
      acc[r][v] = f_load(c + r * p.stride + v * 16);
    }
  }
  for (int64_t i = 0; i < p.count / 2; ++i) {
    add_pair<kRows, kVecs>(p, a + 2 * i, b + i * p.stride, i_set(-1), acc);
  }
  if (p.count % 2 != 0) {  // the other half of the word is not seen
    const int64_t i = p.count / 2;
    add_pair<kRows, kVecs>(p, a + 2 * i, b + i * p.stride, i_set(0xffff), acc);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) {
      f_store(c + r * p.stride + v * 16, acc[r][v]);
    }
  }
}

template <int kRows>
static inline void multiply_pair_columns(const PairProduct& p, int64_t row, int64_t columns) {
  int64_t n = 0;
  for (; n + kTileVecs * 16 <= columns; n += kTileVecs * 16) {
    multiply_pairs<kRows, kTileVecs>(p, row, n);
  }
  for (; n < columns; n += 16) {
    multiply_pairs<kRows, 1>(p, row, n);
  }
}

static inline void multiply_pair_rows(const PairProduct& p, int64_t rows, int64_t columns) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    multiply_pair_columns<kTileRows>(p, r, columns);
  }
  if (r + 4 <= rows) {
    multiply_pair_columns<4>(p, r, columns);
    r += 4;
  }
  if (r + 2 <= rows) {
    multiply_pair_columns<2>(p, r, columns);
    r += 2;
  }
  if (r < rows) {
    multiply_pair_columns<1>(p, r, columns);
  }
}

#endif

}  // namespace atom::cpu::ATOM_ISA
