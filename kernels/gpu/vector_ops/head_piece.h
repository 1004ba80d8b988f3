// A head of q, k or v between its product and attention: norm and rotation in registers. A group of
// kGroup lanes owns a head: lane i holds values of the first half and their partners of the second,
// so that a rotation never leaves the thread. Device code, C++20.
#pragma once

#include "kernels/gpu/primitives/warp.h"
#include "kernels/gpu/vector_ops/row_io.h"

namespace atom::gpu {

// Two runs of eight values of a head: [first, first + 8) and [second, second + 8).
struct HeadPiece {
  static constexpr int kGroup = 16;
  static constexpr int kMaxHeadDim = 256;
  float a[8];
  float b[8];
};

template <int kLanes = HeadPiece::kGroup>
__device__ __forceinline__ void norm_head(HeadPiece& piece, bool active, const float* weight,
                                          int first, int second, float eps, int head_dim) {
  float squares = 0.0F;
  float wa[8];
  float wb[8];
  if (active) {
    load8(weight + first, wa);
    load8(weight + second, wb);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      squares += piece.a[j] * piece.a[j] + piece.b[j] * piece.b[j];
    }
  }
  squares = reduce_lanes<SumOf, kLanes>(squares);
  if (!active) {
    return;
  }
  const float inverse = 1.0F / sqrtf(squares / static_cast<float>(head_dim) + eps);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    piece.a[j] = piece.a[j] * inverse * wa[j];
    piece.b[j] = piece.b[j] * inverse * wb[j];
  }
}

__device__ __forceinline__ void rotate(HeadPiece& piece, const float* cos_sin, int first,
                                       int half) {
  float cosine[8];
  float sine[8];
  load8(cos_sin + first, cosine);
  load8(cos_sin + half + first, sine);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float a = piece.a[j];
    const float b = piece.b[j];
    piece.a[j] = a * cosine[j] - b * sine[j];
    piece.b[j] = b * cosine[j] + a * sine[j];
  }
}

__device__ __forceinline__ void store_cache(void* cache, DType dtype, int64_t at, float inverse,
                                            float (&values)[8]) {
  if (dtype == DType::kBF16) {
    store8(static_cast<uint16_t*>(cache) + at, values);
    return;
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    values[j] *= inverse;
  }
  store8(static_cast<uint8_t*>(cache) + at, values);
}

}  // namespace atom::gpu
