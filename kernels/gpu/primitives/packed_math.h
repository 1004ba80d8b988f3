// Arithmetic on pairs of 16-bit floats in a word, and single f16 values. Device code, C++20.
#pragma once

#include "kernels/gpu/primitives/types.h"

namespace atom::gpu {

// a * b + c for both bf16 of a word.
__device__ __forceinline__ uint32_t fma_bf16(uint32_t a, uint32_t b, uint32_t c) {
#if ATOM_GPU_CUDA
  uint32_t out;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
#else
  return pack_bf16(bf16_low(a) * bf16_low(b) + bf16_low(c),
                   bf16_high(a) * bf16_high(b) + bf16_high(c));
#endif
}

// The same for f16; CUDA only.
__device__ __forceinline__ uint32_t fma_f16(uint32_t a, uint32_t b, uint32_t c) {
#if ATOM_GPU_CUDA
  uint32_t out;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
#else
  return a & b & c;  // never called
#endif
}

// The f16 in the lower or the upper half of a word.
template <bool kHigh>
__device__ __forceinline__ float from_f16(uint32_t pair) {
#if ATOM_GPU_CUDA
  float out;
  if constexpr (kHigh) {
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, high;}"
        : "=f"(out)
        : "r"(pair));
  } else {
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low;}"
        : "=f"(out)
        : "r"(pair));
  }
  return out;
#else
  const auto half = static_cast<uint16_t>(kHigh ? pair >> 16 : pair & 0xffffU);
  return static_cast<float>(__builtin_bit_cast(_Float16, half));
#endif
}

// Bytes of two words by their numbers: 0 to 3 of a, 4 to 7 of b, one a nibble of `order`.
__device__ __forceinline__ uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t order) {
#if ATOM_GPU_CUDA
  return __byte_perm(a, b, order);
#else
  const uint64_t both = uint64_t{b} << 32 | a;
  uint32_t out = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out |= static_cast<uint32_t>(both >> (8 * (order >> (4 * i) & 7U)) & 0xffU) << (8 * i);
  }
  return out;
#endif
}

}  // namespace atom::gpu
