// Eight neighbouring values of a row, whatever its dtype, as f32. Device code, C++20.
#pragma once

#include "kernels/gpu/primitives/types.h"
#include "kernels/gpu/vector_ops.h"

namespace atom::gpu {

__device__ __forceinline__ void load8(const float* from, float (&to)[8]) {
  const Vec16 a = load16(from);
  const Vec16 b = load16(from + 4);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[i] = bits_to_float(a.word[i]);
    to[4 + i] = bits_to_float(b.word[i]);
  }
}

__device__ __forceinline__ void load8(const uint16_t* from, float (&to)[8]) {
  unpack_bf16(load16(from), to);
}

__device__ __forceinline__ void store8(float* to, const float (&from)[8]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    Vec16 words;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      words.word[i] = __float_as_uint(from[4 * half + i]);
    }
    store16(to + 4 * half, words);
  }
}

__device__ __forceinline__ void store8(uint16_t* to, const float (&from)[8]) {
  store16(to, pack_bf16(from));
}

// Eight e4m3.
__device__ __forceinline__ void store8(uint8_t* to, const float (&from)[8]) {
  uint2 words;
  words.x = pack_e4m3(from[0], from[1]) | (pack_e4m3(from[2], from[3]) << 16);
  words.y = pack_e4m3(from[4], from[5]) | (pack_e4m3(from[6], from[7]) << 16);
  *reinterpret_cast<uint2*>(to) = words;
}

// Applies the scales that a product left, where it did: `row` is the value of scales.rows.
__device__ __forceinline__ void scale8(const OuterScales& scales, float row, int64_t column,
                                       float (&values)[8]) {
  if (scales.rows == nullptr) {
    return;
  }
  float columns[8];
  load8(scales.columns + column, columns);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    values[j] *= row * columns[j];
  }
}
__device__ __forceinline__ float row_scale(const OuterScales& scales, int64_t row) {
  return scales.rows != nullptr ? scales.rows[row] : 1.0F;
}

inline constexpr float kE4M3Largest = 448.0F;

}  // namespace atom::gpu
