// Storage types and their conversions in device code: bf16 and e4m3 values live in integers of
// their size, 16 bytes move at once. Conversions round to nearest even and saturate e4m3 at 448,
// bit for bit as kernels/common/convert.h. No vendor type is named. C++20.
#pragma once

#include <cstdint>

#include "kernels/gpu/vendor/gpu_runtime.h"

namespace atom::gpu {

struct alignas(16) Vec16 {
  uint32_t word[4];
};

__device__ __forceinline__ float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }

// Two bf16 in a word; `low` lies at the lower address.
__device__ __forceinline__ float bf16_low(uint32_t pair) { return bits_to_float(pair << 16); }
__device__ __forceinline__ float bf16_high(uint32_t pair) {
  return bits_to_float(pair & 0xffff0000U);
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#if ATOM_GPU_CUDA
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  const auto round = [](float x) {
    const uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffU) > 0x7f800000U) {
      return (bits >> 16) | 0x40U;  // NaN stays a quiet NaN
    }
    return (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  };
  return round(low) | (round(high) << 16);
#endif
}

__device__ __forceinline__ uint16_t to_bf16(float x) {
  return static_cast<uint16_t>(pack_bf16(x, 0.0F) & 0xffffU);
}
__device__ __forceinline__ float from_bf16(uint16_t x) { return bits_to_float(uint32_t{x} << 16); }

__device__ __forceinline__ void unpack_bf16(const Vec16& from, float (&to)[8]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = bf16_low(from.word[i]);
    to[2 * i + 1] = bf16_high(from.word[i]);
  }
}

__device__ __forceinline__ Vec16 pack_bf16(const float (&from)[8]) {
  Vec16 to;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to.word[i] = pack_bf16(from[2 * i], from[2 * i + 1]);
  }
  return to;
}

// OCP e4m3fn. Portable arithmetic, because gfx942's own conversion is of another format (FNUZ).
__device__ __forceinline__ uint32_t to_e4m3_portable(float x) {
  const uint32_t bits = __float_as_uint(x);
  const uint32_t sign = (bits >> 24) & 0x80U;
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) {
    return sign | 0x7fU;
  }
  if (magnitude >= 0x43e00000U) {  // >= 448
    return sign | 0x7eU;
  }
  if (magnitude < 0x3c800000U) {  // < 2^-6: adding 2^14 leaves a multiple of 2^-9
    return sign | (__float_as_uint(bits_to_float(magnitude) + 0x1p14F) & 0xffU);
  }
  const uint32_t rounded = magnitude + 0x7ffffU + ((magnitude >> 20) & 1U);
  return sign | ((rounded - 0x3c000000U) >> 20);
}

// Two values into the lower half of a word.
__device__ __forceinline__ uint32_t pack_e4m3(float low, float high) {
#if ATOM_GPU_CUDA && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return to_e4m3_portable(low) | (to_e4m3_portable(high) << 8);
#endif
}

__device__ __forceinline__ float from_e4m3(uint32_t byte) {
  const uint32_t bits = ((byte & 0x80U) << 24) | ((byte & 0x7fU) << 20);
  return (byte & 0x7fU) == 0x7fU ? bits_to_float(0x7fc00000U) : bits_to_float(bits) * 0x1p120F;
}

// Four e4m3 of a word to two words of bf16 pairs, exactly. Exponent and mantissa move into bf16's
// fields, which leaves the value times 2^-120, subnormals included; one multiplication mends that.
// NaN (0x7f) reads as 480: weights hold none.
__device__ __forceinline__ uint2 e4m3_to_bf16(uint32_t word) {
#if ATOM_GPU_CUDA
  const uint32_t low = __byte_perm(word, 0, 0x1404);   // bytes 0 and 1 in the upper halves
  const uint32_t high = __byte_perm(word, 0, 0x3424);  // bytes 2 and 3
  const uint32_t a = (low & 0x80008000U) | ((low >> 4) & 0x07f007f0U);
  const uint32_t b = (high & 0x80008000U) | ((high >> 4) & 0x07f007f0U);
  uint2 out;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out.x) : "r"(a), "r"(0x7b807b80U), "r"(0x80008000U));
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out.y) : "r"(b), "r"(0x7b807b80U), "r"(0x80008000U));
  return out;
#else
  const auto exact = [](uint32_t byte) {
    const uint32_t bits = ((byte & 0x80U) << 24) | ((byte & 0x7fU) << 20);
    return __float_as_uint(bits_to_float(bits) * 0x1p120F) >> 16;
  };
  return {exact(word & 0xffU) | (exact((word >> 8) & 0xffU) << 16),
          exact((word >> 16) & 0xffU) | (exact(word >> 24) << 16)};
#endif
}

#if ATOM_GPU_CUDA
// The two e4m3 bytes in one half of `pair` to f16, exactly. Without the instruction (before sm_89):
// exponent and mantissa move one bit down, which leaves the value times 2^-8; NaN reads as 480.
template <bool kHigh = false>
__device__ __forceinline__ uint32_t e4m3_to_f16(uint32_t pair) {
  uint32_t out;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  if constexpr (kHigh) {
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.rn.f16x2.e4m3x2 %0, high;}"
        : "=r"(out)
        : "r"(pair));
  } else {
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.rn.f16x2.e4m3x2 %0, low;}"
        : "=r"(out)
        : "r"(pair));
  }
#else
  const uint32_t spread = __byte_perm(pair, 0, kHigh ? 0x3424 : 0x1404);
  const uint32_t scaled = (spread & 0x80008000U) | ((spread & 0x7f007f00U) >> 1);
  asm("mul.f16x2 %0, %1, %2;" : "=r"(out) : "r"(scaled), "r"(0x5c005c00U));
#endif
  return out;
}

__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
#endif

// 16 bytes that other kernels wrote, or that are read again soon.
__device__ __forceinline__ Vec16 load16(const void* from) {
  return *static_cast<const Vec16*>(from);
}
__device__ __forceinline__ void store16(void* to, const Vec16& value) {
  *static_cast<Vec16*>(to) = value;
}

// 16 bytes of constant data that are read once: they pass by the first cache level and are the
// first to leave the second. `policy` is of streaming_policy().
__device__ __forceinline__ uint64_t streaming_policy() {
#if ATOM_GPU_CUDA && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
#else
  return 0;
#endif
}

__device__ __forceinline__ Vec16 load_stream16(const void* from, [[maybe_unused]] uint64_t policy) {
  Vec16 to;
#if ATOM_GPU_CUDA
  asm volatile(
      "ld.global.nc.L1::no_allocate.L2::cache_hint.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4], %5;"
      : "=r"(to.word[0]), "=r"(to.word[1]), "=r"(to.word[2]), "=r"(to.word[3])
      : "l"(from), "l"(policy));
#else
  using Words = uint32_t __attribute__((ext_vector_type(4)));
  const Words words = __builtin_nontemporal_load(static_cast<const Words*>(from));
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to.word[i] = words[i];
  }
#endif
  return to;
}

}  // namespace atom::gpu
