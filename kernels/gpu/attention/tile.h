// What the attention kernels are made of: warps of 32 lanes, 16-byte loads, m16n8k16 products, and
// the conversion of e4m3 pairs. On CUDA the product is mma.sync; on HIP it is the same product
// spelled with shuffles inside 32 lanes, which compiles and is right by construction but slow: an
// MFMA body is the way to speed there. Not a tile library: no layouts, no loops. Device code,
// C++20.
#pragma once

#include <cstdint>

#if defined(__HIP__) || defined(__HIP_PLATFORM_AMD__)
#include <hip/hip_runtime.h>
#define cudaStream_t hipStream_t
#define cudaGetDevice hipGetDevice
#define cudaDeviceGetAttribute hipDeviceGetAttribute
#define cudaDevAttrMultiProcessorCount hipDeviceAttributeMultiprocessorCount
#define cudaFuncSetAttribute hipFuncSetAttribute
#define cudaFuncAttributeMaxDynamicSharedMemorySize hipFuncAttributeMaxDynamicSharedMemorySize
#define cudaOccupancyMaxActiveBlocksPerMultiprocessor hipOccupancyMaxActiveBlocksPerMultiprocessor
#define ATOM_ATTENTION_CUDA 0
#else
#include <cuda_runtime.h>
#define ATOM_ATTENTION_CUDA 1
#endif

namespace atom::gpu {

inline constexpr int kLanes = 32;  // of the warps that tiles are spread over
inline constexpr float kLog2E = 1.44269504088896341F;
inline constexpr float kLowest = -1e30F;  // a running maximum before any key

__device__ __forceinline__ float negative_infinity() { return -__builtin_huge_valf(); }

#if ATOM_ATTENTION_CUDA
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(~0U, value, mask);
}
template <class T>
__device__ __forceinline__ T shuffle(T value, int lane) {
  return __shfl_sync(~0U, value, lane);
}
__device__ __forceinline__ void warp_sync() { __syncwarp(); }
#else
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
  return __shfl_xor(value, mask, kLanes);
}
template <class T>
__device__ __forceinline__ T shuffle(T value, int lane) {
  return __shfl(value, lane, kLanes);
}
__device__ __forceinline__ void warp_sync() { __builtin_amdgcn_wave_barrier(); }
#endif

__device__ __forceinline__ float fast_exp2(float x) {
#if ATOM_ATTENTION_CUDA
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return __builtin_amdgcn_exp2f(x);
#endif
}

// 4, 8 or 16 bytes of the cache into registers; read once, so they pass by the first cache level.
template <int kBytes>
__device__ __forceinline__ void load_stream(uint32_t* to, const uint8_t* from) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#if ATOM_ATTENTION_CUDA
  if constexpr (kBytes == 16) {
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "l"(from));
  } else if constexpr (kBytes == 8) {
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v2.u32 {%0,%1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "l"(from));
  } else {
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(to[0]) : "l"(from));
  }
#else
  for (int i = 0; i < kBytes / 4; ++i) {
    to[i] = __builtin_nontemporal_load(reinterpret_cast<const uint32_t*>(from) + i);
  }
#endif
}

// Written by another block of this launch, before a fence and an atomic that this block has seen.
__device__ __forceinline__ float load_shared_level(const float* from) {
#if ATOM_ATTENTION_CUDA
  return __ldcg(from);
#else
  return __hip_atomic_load(from, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
#endif
}

__device__ __forceinline__ uint32_t select_bytes(uint32_t low, uint32_t high, uint32_t selector) {
#if ATOM_ATTENTION_CUDA
  return __byte_perm(low, high, selector);
#else
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t index = (selector >> (4 * i)) & 7U;
    const uint32_t word = index < 4 ? low : high;
    out |= ((word >> (8 * (index & 3U))) & 0xffU) << (8 * i);
  }
  return out;
#endif
}

// Pairs of values of the type that products are made in: bf16, or f16 for an e4m3 cache. `low` lies
// in the lower half.
struct PairBf16 {
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
#if ATOM_ATTENTION_CUDA
    uint32_t out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
#else
    const auto round = [](float x) {
      const uint32_t bits = __float_as_uint(x);
      return (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
    };
    return round(low) | (round(high) << 16);
#endif
  }
  static __device__ __forceinline__ float low(uint32_t pair) { return __uint_as_float(pair << 16); }
  static __device__ __forceinline__ float high(uint32_t pair) {
    return __uint_as_float(pair & 0xffff0000U);
  }
};

struct PairF16 {
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
#if ATOM_ATTENTION_CUDA
    uint32_t out;
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
#else
    const auto round = [](float x) {
      const _Float16 half = static_cast<_Float16>(fminf(fmaxf(x, -65504.0F), 65504.0F));
      return static_cast<uint32_t>(__builtin_bit_cast(uint16_t, half));
    };
    return round(low) | (round(high) << 16);
#endif
  }
  static __device__ __forceinline__ float low(uint32_t pair) {
#if ATOM_ATTENTION_CUDA
    float out;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(out) : "r"(pair));
    return out;
#else
    return static_cast<float>(__builtin_bit_cast(_Float16, static_cast<uint16_t>(pair)));
#endif
  }
  static __device__ __forceinline__ float high(uint32_t pair) { return low(pair >> 16); }
};

// Two e4m3 bytes in the upper bytes of the halves of `pair` (the lower bytes do not matter) to f16:
// exponent and mantissa move one bit down, which leaves the value times 2^-8, subnormals included.
// The reader of the product multiplies by kE4M3Scale. 0x7f (NaN) reads as 480.
inline constexpr float kE4M3Scale = 256.0F;
__device__ __forceinline__ uint32_t e4m3_to_f16(uint32_t pair) {
  return (pair & 0x80008000U) | ((pair >> 1) & 0x3f803f80U);
}

// c [16, 8] += a [16, 16] . b [16, 8]; with g = lane / 4 and t = lane % 4, a lane holds
//   a: rows g, g + 8 of columns 2t, 2t+1; then the same rows of columns 2t+8, 2t+9
//   b: rows 2t, 2t+1 of column g; then rows 2t+8, 2t+9
//   c: row g, columns 2t, 2t+1; row g + 8, the same columns
template <class Pair>
__device__ __forceinline__ void multiply_add(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                             uint32_t a3, uint32_t b0, uint32_t b1);

#if ATOM_ATTENTION_CUDA
template <>
__device__ __forceinline__ void multiply_add<PairBf16>(float (&c)[4], uint32_t a0, uint32_t a1,
                                                       uint32_t a2, uint32_t a3, uint32_t b0,
                                                       uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void multiply_add<PairF16>(float (&c)[4], uint32_t a0, uint32_t a1,
                                                      uint32_t a2, uint32_t a3, uint32_t b0,
                                                      uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
#else
template <class Pair>
__device__ __forceinline__ void multiply_add(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                             uint32_t a3, uint32_t b0, uint32_t b1) {
  const int lane = threadIdx.x % kLanes;
  const int row = lane / 4;
  const int column = lane % 4 * 2;
  for (int k = 0; k < 4; ++k) {  // the four lanes that hold a row of a, or a column of b
    const uint32_t top[2] = {shuffle(a0, row * 4 + k), shuffle(a2, row * 4 + k)};
    const uint32_t bottom[2] = {shuffle(a1, row * 4 + k), shuffle(a3, row * 4 + k)};
    for (int j = 0; j < 2; ++j) {
      const uint32_t right[2] = {shuffle(b0, (column + j) * 4 + k),
                                 shuffle(b1, (column + j) * 4 + k)};
      for (int half = 0; half < 2; ++half) {
        c[j] += Pair::low(top[half]) * Pair::low(right[half]) +
                Pair::high(top[half]) * Pair::high(right[half]);
        c[2 + j] += Pair::low(bottom[half]) * Pair::low(right[half]) +
                    Pair::high(bottom[half]) * Pair::high(right[half]);
      }
    }
  }
}
#endif

// An 8 x 8 matrix of 16-bit values, two per lane (row lane / 4, columns 2 (lane % 4) and the next),
// transposed.
__device__ __forceinline__ uint32_t transpose_8x8(uint32_t x) {
#if ATOM_ATTENTION_CUDA
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
#else
  const int lane = threadIdx.x % kLanes;
  const int column = lane / 4;
  const int row = lane % 4 * 2;
  const uint32_t first = shuffle(x, row * 4 + column / 2);
  const uint32_t second = shuffle(x, (row + 1) * 4 + column / 2);
  const int shift = column % 2 * 16;
  return ((first >> shift) & 0xffffU) | (((second >> shift) & 0xffffU) << 16);
#endif
}

// Four 8 x 8 matrices of 16-bit values from shared memory; lane 8i + r gives the address of row r
// of matrix i, 16-byte aligned. A lane gets row lane / 4, columns 2 (lane % 4) and the next, of
// each; with kTransposed of its transpose.
template <bool kTransposed>
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
#if ATOM_ATTENTION_CUDA
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  }
#else
  const int lane = threadIdx.x % kLanes;
  const auto address = reinterpret_cast<uint64_t>(row);
  for (int i = 0; i < 4; ++i) {
    if constexpr (kTransposed) {
      const auto* a = reinterpret_cast<const uint16_t*>(shuffle(address, 8 * i + lane % 4 * 2));
      const auto* b = reinterpret_cast<const uint16_t*>(shuffle(address, 8 * i + lane % 4 * 2 + 1));
      to[i] = a[lane / 4] | (static_cast<uint32_t>(b[lane / 4]) << 16);
    } else {
      const auto* a = reinterpret_cast<const uint32_t*>(shuffle(address, 8 * i + lane / 4));
      to[i] = a[lane % 4];
    }
  }
#endif
}

// 16 bytes to shared memory without waiting; zeros where not `valid`. copies_done waits for all of
// the thread's but the newest kPending groups.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
#if ATOM_ATTENTION_CUDA
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(address), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
#else
  *static_cast<uint4*>(to) = valid ? *static_cast<const uint4*>(from) : uint4{0, 0, 0, 0};
#endif
}
__device__ __forceinline__ void close_copy_group() {
#if ATOM_ATTENTION_CUDA
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kPending>
__device__ __forceinline__ void copies_done() {
#if ATOM_ATTENTION_CUDA
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// Host: blocks that are resident at once, for a kernel with this much dynamic shared memory and the
// starts of up to 16 K sequences behind it.
inline int resident_grid(const void* kernel, int threads, int shared_bytes) {
  int device = 0;
  int processors = 1;
  int blocks = 0;
  (void)cudaGetDevice(&device);
  (void)cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  (void)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             shared_bytes + (1 << 16));
  (void)cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads,
                                                      static_cast<size_t>(shared_bytes) + 4096);
  return processors * (blocks > 0 ? blocks : 1);
}

}  // namespace atom::gpu
