// Sixteen 32-bit lanes, one per output feature of a panel: a zmm register, or two ymm registers
// without AVX-512. Every file of simd/ is compiled once per instruction set with ATOM_ISA naming
// its namespace. The rule of this folder: only C headers, intrinsics and `static` functions, so
// that no function compiled for a newer processor can replace the portable one at link time. To
// port to a new vector unit: this file.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define ATOM_INLINE static inline __attribute__((always_inline))
#define ATOM_INLINE_MEMBER inline __attribute__((always_inline))

namespace atom::cpu::ATOM_ISA {

#if defined(__AVX512F__)

typedef __m512 F;
typedef __m512i I;

ATOM_INLINE F f_zero() { return _mm512_setzero_ps(); }
ATOM_INLINE F f_set(float x) { return _mm512_set1_ps(x); }
ATOM_INLINE F f_load(const float* p) { return _mm512_loadu_ps(p); }
ATOM_INLINE void f_store(float* p, F x) { _mm512_storeu_ps(p, x); }
ATOM_INLINE F f_add(F a, F b) { return _mm512_add_ps(a, b); }
ATOM_INLINE F f_sub(F a, F b) { return _mm512_sub_ps(a, b); }
ATOM_INLINE F f_mul(F a, F b) { return _mm512_mul_ps(a, b); }
ATOM_INLINE F f_div(F a, F b) { return _mm512_div_ps(a, b); }
ATOM_INLINE F f_max(F a, F b) { return _mm512_max_ps(a, b); }
ATOM_INLINE F f_min(F a, F b) { return _mm512_min_ps(a, b); }
ATOM_INLINE F f_fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
ATOM_INLINE F f_abs(F x) { return _mm512_abs_ps(x); }
ATOM_INLINE F f_round(F x) { return _mm512_roundscale_ps(x, 0); }
ATOM_INLINE I i_zero() { return _mm512_setzero_si512(); }
ATOM_INLINE I i_set(int32_t x) { return _mm512_set1_epi32(x); }
ATOM_INLINE I i_load(const void* p) { return _mm512_loadu_si512(p); }
ATOM_INLINE void i_store(void* p, I x) { _mm512_storeu_si512(p, x); }
ATOM_INLINE I i_add(I a, I b) { return _mm512_add_epi32(a, b); }
ATOM_INLINE I i_sub(I a, I b) { return _mm512_sub_epi32(a, b); }
ATOM_INLINE I i_and(I a, I b) { return _mm512_and_si512(a, b); }
ATOM_INLINE I i_or(I a, I b) { return _mm512_or_si512(a, b); }
template <int kBits>
ATOM_INLINE I i_shl(I a) {
  return _mm512_slli_epi32(a, kBits);
}
template <int kBits>
ATOM_INLINE I i_shr(I a) {
  return _mm512_srli_epi32(a, kBits);
}
template <int kBits>
ATOM_INLINE I i_sar(I a) {
  return _mm512_srai_epi32(a, kBits);
}
ATOM_INLINE F to_f32(I x) { return _mm512_cvtepi32_ps(x); }
ATOM_INLINE I to_i32(F x) { return _mm512_cvtps_epi32(x); }
ATOM_INLINE F as_f32(I x) { return _mm512_castsi512_ps(x); }
ATOM_INLINE I as_i32(F x) { return _mm512_castps_si512(x); }
ATOM_INLINE F f_load_f16(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
ATOM_INLINE I i_load_u16(const void* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
ATOM_INLINE I i_load_u8(const void* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
ATOM_INLINE I i_load_i8(const void* p) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
ATOM_INLINE void i_store_u16(void* p, I x) {  // the low 16 bits of each lane
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x));
}
ATOM_INLINE void i_store_u8(void* p, I x) {  // the low 8 bits of each lane
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
}
// Sums in one fixed order.
ATOM_INLINE float f_sum(F x) {
  const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
ATOM_INLINE float f_highest(F x) { return _mm512_reduce_max_ps(x); }
ATOM_INLINE int32_t i_sum(I x) { return _mm512_reduce_add_epi32(x); }
ATOM_INLINE bool f_any_nan(F x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) != 0; }
ATOM_INLINE I i_where_nan(F x, I nan, I other) {
  return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), other, nan);
}

// acc + four products of unsigned bytes of a and signed bytes of b, per lane. Without VNNI, two
// neighbouring products must fit 16 bits: a <= 128.
ATOM_INLINE I dot4(I acc, I a, I b) {
#if defined(__AVX512VNNI__)
  return _mm512_dpbusd_epi32(acc, a, b);
#else
  const I pairs = _mm512_maddubs_epi16(a, b);
  return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}

#else  // AVX2 + FMA + F16C

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};

ATOM_INLINE F f_zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
ATOM_INLINE F f_set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
ATOM_INLINE F f_load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
ATOM_INLINE void f_store(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
ATOM_INLINE F f_add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
ATOM_INLINE F f_sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
ATOM_INLINE F f_mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
ATOM_INLINE F f_div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
ATOM_INLINE F f_max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
ATOM_INLINE F f_min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
ATOM_INLINE F f_fma(F x, F y, F z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
ATOM_INLINE F f_abs(F x) {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
ATOM_INLINE F f_round(F x) { return {_mm256_round_ps(x.a, 8), _mm256_round_ps(x.b, 8)}; }
ATOM_INLINE I i_zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
ATOM_INLINE I i_set(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
ATOM_INLINE I i_load(const void* p) {
  const auto* v = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
}
ATOM_INLINE void i_store(void* p, I x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(static_cast<__m256i*>(p) + 1, x.b);
}
ATOM_INLINE I i_add(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
ATOM_INLINE I i_sub(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
ATOM_INLINE I i_and(I x, I y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
ATOM_INLINE I i_or(I x, I y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
template <int kBits>
ATOM_INLINE I i_shl(I x) {
  return {_mm256_slli_epi32(x.a, kBits), _mm256_slli_epi32(x.b, kBits)};
}
template <int kBits>
ATOM_INLINE I i_shr(I x) {
  return {_mm256_srli_epi32(x.a, kBits), _mm256_srli_epi32(x.b, kBits)};
}
template <int kBits>
ATOM_INLINE I i_sar(I x) {
  return {_mm256_srai_epi32(x.a, kBits), _mm256_srai_epi32(x.b, kBits)};
}
ATOM_INLINE F to_f32(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
ATOM_INLINE I to_i32(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
ATOM_INLINE F as_f32(I x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
ATOM_INLINE I as_i32(F x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
ATOM_INLINE F f_load_f16(const void* p) {
  const auto* v = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(v)), _mm256_cvtph_ps(_mm_loadu_si128(v + 1))};
}
ATOM_INLINE I i_load_u16(const void* p) {
  const auto* v = static_cast<const __m128i*>(p);
  return {_mm256_cvtepu16_epi32(_mm_loadu_si128(v)), _mm256_cvtepu16_epi32(_mm_loadu_si128(v + 1))};
}
ATOM_INLINE I i_load_u8(const void* p) {
  const __m128i v = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))};
}
ATOM_INLINE I i_load_i8(const void* p) {
  const __m128i v = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))};
}
ATOM_INLINE void i_store_u16(void* p, I x) {
  const __m256i low = _mm256_set1_epi32(0xffff);
  const __m256i packed =
      _mm256_packus_epi32(_mm256_and_si256(x.a, low), _mm256_and_si256(x.b, low));
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
ATOM_INLINE void i_store_u8(void* p, I x) {
  const __m256i low = _mm256_set1_epi32(0xff);
  const __m256i words = _mm256_permute4x64_epi64(
      _mm256_packus_epi32(_mm256_and_si256(x.a, low), _mm256_and_si256(x.b, low)), 0xd8);
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm_packus_epi16(_mm256_castsi256_si128(words),
                                                              _mm256_extracti128_si256(words, 1)));
}
ATOM_INLINE float f_sum(F x) {
  const __m256 a = _mm256_add_ps(x.a, x.b);
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
ATOM_INLINE float f_highest(F x) {
  const __m256 a = _mm256_max_ps(x.a, x.b);
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}
ATOM_INLINE int32_t i_sum(I x) {
  const __m256i a = _mm256_add_epi32(x.a, x.b);
  __m128i b = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  b = _mm_add_epi32(b, _mm_shuffle_epi32(b, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(b, _mm_shuffle_epi32(b, 0xb1)));
}
ATOM_INLINE bool f_any_nan(F x) {
  return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q),
                                         _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q))) != 0;
}
ATOM_INLINE I i_where_nan(F x, I nan, I other) {
  const __m256i a = _mm256_castps_si256(_mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q));
  const __m256i b = _mm256_castps_si256(_mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q));
  return {_mm256_blendv_epi8(other.a, nan.a, a), _mm256_blendv_epi8(other.b, nan.b, b)};
}
ATOM_INLINE I dot4(I acc, I x, I y) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(acc.a, _mm256_madd_epi16(_mm256_maddubs_epi16(x.a, y.a), ones)),
          _mm256_add_epi32(acc.b, _mm256_madd_epi16(_mm256_maddubs_epi16(x.b, y.b), ones))};
}

#endif

// Byte i of the result is table[low four bits of byte i of x]; x has no byte above 15.
ATOM_INLINE I i_lookup16(const uint8_t table[16], I x) {
#if defined(__AVX512F__)
  return _mm512_shuffle_epi8(
      _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), x);
#else
  const __m256i both =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return {_mm256_shuffle_epi8(both, x.a), _mm256_shuffle_epi8(both, x.b)};
#endif
}

ATOM_INLINE F f_load_bf16(const void* p) { return as_f32(i_shl<16>(i_load_u16(p))); }

// The bf16 of each lane, nearest even, in its low 16 bits.
ATOM_INLINE I to_bf16(F x) {
  const I bits = as_i32(x);
  const I odd = i_and(i_shr<16>(bits), i_set(1));
  const I rounded = i_shr<16>(i_add(i_add(bits, i_set(0x7fff)), odd));
  return i_where_nan(x, i_or(i_shr<16>(bits), i_set(0x40)), rounded);
}

// The first `count` lanes of memory, zero beyond.
ATOM_INLINE F f_load_first(const float* p, int64_t count) {
  if (count >= 16) {
    return f_load(p);
  }
  float lanes[16] = {};
  memcpy(lanes, p, static_cast<size_t>(count) * sizeof(float));
  return f_load(lanes);
}
ATOM_INLINE void f_store_first(float* p, F x, int64_t count) {
  if (count >= 16) {
    return f_store(p, x);
  }
  float lanes[16];
  f_store(lanes, x);
  memcpy(p, lanes, static_cast<size_t>(count) * sizeof(float));
}

// Asks for memory that the next tile reads, into the L2 cache. Any address is allowed.
ATOM_INLINE void prefetch(const uint8_t* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T1);
  }
}

template <int kBytes>
ATOM_INLINE void prefetch(const uint8_t* p) {
#pragma GCC unroll 16
  for (int i = 0; i < kBytes; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T1);
  }
}

// out [16][stride] = transpose of in [16][16].
static inline void transpose16(const float* in, float* out, int64_t stride) {
#if defined(__AVX512F__)
  F r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    r[i] = f_load(in + i * 16);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {  // pairs of rows, then pairs of pairs, within 128-bit lanes
    t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[4 * i + 0] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
    r[4 * i + 2] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {  // then the 128-bit lanes themselves
    const F low_even = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88);
    const F low_odd = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd);
    const F high_even = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
    const F high_odd = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
    f_store(out + (c + 0) * stride, _mm512_shuffle_f32x4(low_even, high_even, 0x88));
    f_store(out + (c + 4) * stride, _mm512_shuffle_f32x4(low_odd, high_odd, 0x88));
    f_store(out + (c + 8) * stride, _mm512_shuffle_f32x4(low_even, high_even, 0xdd));
    f_store(out + (c + 12) * stride, _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd));
  }
#else
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) {
      out[j * stride + i] = in[i * 16 + j];
    }
  }
#endif
}

// e^x with x clamped to [-87.3, 88], 2 ulp. Cephes' split of ln 2 and degree-6 polynomial, after x
// = n ln 2 + r.
ATOM_INLINE F f_exp(F x) {
  // min and max return their second operand when either is NaN, so NaN stays NaN.
  const F clamped = f_max(f_set(-87.3F), f_min(f_set(88.0F), x));
  const F n = f_round(f_mul(clamped, f_set(1.44269504088896341F)));
  F r = f_fma(n, f_set(-0.693359375F), clamped);
  r = f_fma(n, f_set(2.12194440e-4F), r);
  F p = f_fma(f_set(1.9875691500e-4F), r, f_set(1.3981999507e-3F));
  p = f_fma(p, r, f_set(8.3334519073e-3F));
  p = f_fma(p, r, f_set(4.1665795894e-2F));
  p = f_fma(p, r, f_set(1.6666665459e-1F));
  p = f_fma(p, r, f_set(5.0000001201e-1F));
  const F e = f_add(f_fma(f_mul(r, r), p, r), f_set(1.0F));
  return as_f32(i_add(as_i32(e), i_shl<23>(to_i32(n))));
}

}  // namespace atom::cpu::ATOM_ISA
