// The matrix-core product as the small-M linear kernel uses it: a warp multiplies kTokens rows of x
// with kRows rows of W over 32 values of k. Each lane holds 16 bytes (8 bf16) of a row: the same
// permutation of k on both sides, so that plain 16-byte loads of row-major memory *are* the
// fragments and nothing is repacked or passed through shared memory. Two bodies: mma.sync m16n8k16
// (x is the 16-row operand, W the 8-column one) and MFMA 16x16x16. The sums of one token never
// depend on the other tokens. C++20.
#pragma once

#include "kernels/gpu/primitives/types.h"
#include "kernels/gpu/primitives/warp.h"

namespace atom::gpu {

struct ProductTile {
  static constexpr int kTokens = 16;
  static constexpr int kSums = 4;  // of a lane
#if ATOM_GPU_HIP
  static constexpr int kRows = 16;
  static constexpr int kTokenLoads = 1;  // 16-byte pieces of x a lane holds

  static __device__ __forceinline__ int row(int lane) { return lane % 16; }
  static __device__ __forceinline__ int quarter(int lane) { return lane / 16; }
  static __device__ __forceinline__ int token(int lane, int) { return lane % 16; }
  // Of accumulator i.
  static __device__ __forceinline__ int sum_row(int lane, int) { return lane % 16; }
  static __device__ __forceinline__ int sum_token(int lane, int i) { return lane / 16 * 4 + i; }
#else
  static constexpr int kRows = 8;
  static constexpr int kTokenLoads = 2;

  static __device__ __forceinline__ int row(int lane) { return lane / 4; }
  static __device__ __forceinline__ int quarter(int lane) { return lane % 4; }
  static __device__ __forceinline__ int token(int lane, int load) { return lane / 4 + 8 * load; }
  static __device__ __forceinline__ int sum_row(int lane, int i) { return lane % 4 * 2 + i % 2; }
  static __device__ __forceinline__ int sum_token(int lane, int i) { return lane / 4 + i / 2 * 8; }
#endif

  // sums += x . w^T. A lane's piece of x belongs to its token(lane, load), of w to its row(lane);
  // both are values [8 * quarter, 8 * quarter + 8) of the 32. Where the tokens are 8 or fewer the
  // second piece is zero. kF16: values are f16 instead of bf16 (CUDA only).
  template <bool kF16 = false>
  static __device__ __forceinline__ void multiply_add(float (&sums)[4],
                                                      const Vec16 (&x)[kTokenLoads],
                                                      const Vec16& w) {
#if ATOM_GPU_HIP
    using Fragment = short __attribute__((ext_vector_type(4)));
    using Sums = float __attribute__((ext_vector_type(4)));
#if defined(__gfx942__) || defined(__gfx90a__)
    Sums c = {sums[0], sums[1], sums[2], sums[3]};
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      Fragment a;
      Fragment b;
      __builtin_memcpy(&a, &x[0].word[2 * step], 8);
      __builtin_memcpy(&b, &w.word[2 * step], 8);
      c = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(a, b, c, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[i] = c[i];
    }
#else
    (void)x, (void)w, (void)sums;  // the host's pass
    (void)sizeof(Fragment), (void)sizeof(Sums);
#endif
#else
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      if constexpr (kF16) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
            "{%8,%9}, {%0,%1,%2,%3};"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(x[0].word[2 * step]), "r"(x[1].word[2 * step]), "r"(x[0].word[2 * step + 1]),
              "r"(x[1].word[2 * step + 1]), "r"(w.word[2 * step]), "r"(w.word[2 * step + 1]));
        continue;
      }
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
          "{%8,%9}, {%0,%1,%2,%3};"
          : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
          : "r"(x[0].word[2 * step]), "r"(x[1].word[2 * step]), "r"(x[0].word[2 * step + 1]),
            "r"(x[1].word[2 * step + 1]), "r"(w.word[2 * step]), "r"(w.word[2 * step + 1]));
    }
#endif
  }
};

#if ATOM_GPU_HIP
using TurnedTile = ProductTile;  // never multiplied with
#else
// The same product turned around, for eight tokens or fewer: two tiles of eight rows of W are the
// 16-row operand, x is the 8-column one, so that half as many instructions read half as much x. In
// f16.
struct TurnedTile {
  static constexpr int kTokens = 8;
  static constexpr int kSums = 2;  // of a lane and a tile of rows
  static constexpr int kRows = 8;
  static constexpr int kTokenLoads = 1;

  static __device__ __forceinline__ int row(int lane) { return lane / 4; }
  static __device__ __forceinline__ int quarter(int lane) { return lane % 4; }
  static __device__ __forceinline__ int token(int lane, int) { return lane / 4; }
  static __device__ __forceinline__ int sum_row(int lane, int) { return lane / 4; }
  static __device__ __forceinline__ int sum_token(int lane, int i) { return lane % 4 * 2 + i; }

  // sums (two of the first tile, two of the second) += x . (first, second)^T.
  static __device__ __forceinline__ void multiply_add(float (&sums)[4], const Vec16& x,
                                                      const Vec16& first, const Vec16& second) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
          "{%8,%9}, {%0,%1,%2,%3};"
          : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
          : "r"(first.word[2 * step]), "r"(second.word[2 * step]), "r"(first.word[2 * step + 1]),
            "r"(second.word[2 * step + 1]), "r"(x.word[2 * step]), "r"(x.word[2 * step + 1]));
    }
  }
};
#endif

}  // namespace atom::gpu
