// A tile of decode attention: 16 keys and values of one kv head against up to 8 or 16 query rows,
// in the registers of one warp. The query rows are the 8 columns of a product whose 16 rows are
// keys, so that a lane's 16-byte load of the cache *is* its fragment. Not here: which tiles, and
// how partial sums meet (decode_body.h, sm90/step_attention.cu). To add a cache dtype: the words of
// DecodeTraits and value_pair. Device code, C++20.
#pragma once

#include <type_traits>

#include "kernels/gpu/attention/mma.h"

namespace atom::gpu {

template <int kHeadDim_, bool kE4M3_, int kRowTiles_, int kWarps_>
struct DecodeTraits {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr bool kE4M3 = kE4M3_;
  static constexpr int kRowTiles = kRowTiles_;
  static constexpr int kWarps = kWarps_;
  static constexpr int kThreads = kWarps * kLanes;
  static constexpr int kRows = 8 * kRowTiles;
  static constexpr int kUnit = 16 * kWarps;
  static constexpr int kElementBytes = kE4M3 ? 1 : 2;
  static constexpr int kRowBytes = kHeadDim * kElementBytes;
  static constexpr int kSteps = kHeadDim / 16;      // of the product with the keys
  static constexpr int kTiles = kHeadDim / 16;      // of the product with the values
  static constexpr int kKeyWords = kRowBytes / 16;  // a key lies in 4 lanes
  static constexpr int kKeyLoad = kKeyWords % 4 == 0 ? 16 : 8;
  static constexpr int kValueWords = kRowBytes / 32;  // a value row lies in 8 lanes
  static constexpr int kValueLoad = kValueWords % 4 == 0 ? 16 : kValueWords % 2 == 0 ? 8 : 4;
  // What does not fit into registers: the queries' fragments, and the tile after this one.
  static constexpr bool kQueryShared = kSteps * kRowTiles > 8;
  static constexpr bool kPrefetch = kRowBytes <= 256;
  using Pair = std::conditional_t<kE4M3, PairF16, PairBf16>;

  static constexpr int kQueryWords = kSteps * kRowTiles * kLanes * 2;
  static constexpr int kSharedBytes =
      ((kQueryShared ? kQueryWords : 0) + kWarps * kRows * (kHeadDim + 2) + 32) * 4;
};

template <class T>
class DecodeTile {
 public:
  __device__ DecodeTile()
      : g_(static_cast<int>(threadIdx.x) % kLanes / 4), t_(static_cast<int>(threadIdx.x) % 4) {}

  // Byte of a query row where this lane's fragment of a step begins, as bf16.
  __device__ __forceinline__ int query_dim(int step) const {
    const int word = T::kE4M3 ? step : 2 * step;
    const int byte =
        word * 4 / T::kKeyLoad * 4 * T::kKeyLoad + t_ * T::kKeyLoad + word * 4 % T::kKeyLoad;
    return byte / T::kElementBytes;
  }
  // Four bf16 of a query row from query_dim on, as the product takes them.
  static __device__ __forceinline__ uint2 query_pairs(const uint16_t* from) {
    uint2 pairs = *reinterpret_cast<const uint2*>(from);
    if constexpr (T::kE4M3) {
      pairs.x = PairF16::pack(PairBf16::low(pairs.x), PairBf16::high(pairs.x));
      pairs.y = PairF16::pack(PairBf16::low(pairs.y), PairBf16::high(pairs.y));
    }
    return pairs;
  }

  __device__ __forceinline__ void load_keys(const uint8_t* tile) {
    const uint8_t* rows = tile + g_ * T::kRowBytes + t_ * T::kKeyLoad;
#pragma unroll
    for (int i = 0; i < T::kKeyWords * 4 / T::kKeyLoad; ++i) {
      load_stream<T::kKeyLoad>(keys_[0] + i * (T::kKeyLoad / 4), rows + i * 4 * T::kKeyLoad);
      load_stream<T::kKeyLoad>(keys_[1] + i * (T::kKeyLoad / 4),
                               rows + 8 * T::kRowBytes + i * 4 * T::kKeyLoad);
    }
  }
  __device__ __forceinline__ void load_values(const uint8_t* tile) {
    const uint8_t* rows = tile + g_ * T::kValueLoad;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int key = 2 * t_ + (j & 1) + (j >> 1) * 8;
#pragma unroll
      for (int i = 0; i < T::kValueWords * 4 / T::kValueLoad; ++i) {
        load_stream<T::kValueLoad>(values_[j] + i * (T::kValueLoad / 4),
                                   rows + key * T::kRowBytes + i * 8 * T::kValueLoad);
      }
    }
  }
  // Element e of a lane's values lies at this dim.
  __device__ __forceinline__ int dim_of(int e) const {
    const int byte = e * T::kElementBytes;
    return (byte / T::kValueLoad * 8 * T::kValueLoad + g_ * T::kValueLoad + byte % T::kValueLoad) /
           T::kElementBytes;
  }
  template <int kFirstKey>
  __device__ __forceinline__ uint32_t value_pair(int e) const {
    constexpr int j = kFirstKey;
    if constexpr (T::kE4M3) {
      const uint32_t byte = static_cast<uint32_t>(e) % 4;
      return e4m3_to_f16(
          __byte_perm(values_[j][e / 4], values_[j + 1][e / 4], byte * 0x11U + 0x40U));
    } else {
      return __byte_perm(values_[j][e / 2], values_[j + 1][e / 2], e % 2 ? 0x7632U : 0x5410U);
    }
  }

  // query(row tile, step): this lane's fragment of the queries.
  template <class Query>
  __device__ __forceinline__ void multiply_keys(float (&scores)[T::kRowTiles][4],
                                                const Query& query) const {
#pragma unroll
    for (int step = 0; step < T::kSteps; ++step) {
      uint32_t a[4];
      if constexpr (T::kE4M3) {
        a[0] = e4m3_to_f16(keys_[0][step]);
        a[1] = e4m3_to_f16(keys_[1][step]);
        a[2] = e4m3_to_f16(keys_[0][step] >> 16);
        a[3] = e4m3_to_f16(keys_[1][step] >> 16);
      } else {
        a[0] = keys_[0][2 * step];
        a[1] = keys_[1][2 * step];
        a[2] = keys_[0][2 * step + 1];
        a[3] = keys_[1][2 * step + 1];
      }
#pragma unroll
      for (int tile = 0; tile < T::kRowTiles; ++tile) {
        const uint2 b = query(tile, step);
        multiply_add<Pair>(scores[tile], a[0], a[1], a[2], a[3], b.x, b.y);
      }
    }
  }

  // Hides the keys that a query row does not see: sees(position, row). Values of keys beyond the
  // context may be anything, even NaN, which a weight of zero would not remove.
  template <class Sees>
  __device__ __forceinline__ void mask(int key, int context_len, float (&scores)[T::kRowTiles][4],
                                       const Sees& sees) {
#pragma unroll
    for (int tile = 0; tile < T::kRowTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int position = key + g_ + (i >> 1) * 8;
        const int r = tile * 8 + 2 * t_ + (i & 1);
        if (!sees(position, r)) {
          scores[tile][i] = negative_infinity();
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (key + 2 * t_ + (j & 1) + (j >> 1) * 8 >= context_len) {
#pragma unroll
        for (int i = 0; i < T::kValueWords; ++i) {
          values_[j][i] = 0;
        }
      }
    }
  }

  // Scores become weights in b; what was summed before is scaled to the new maximum.
  __device__ __forceinline__ void weigh(float (&scores)[4], int tile, uint32_t (&b)[2]) {
    float factor[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float top = fmaxf(scores[i], scores[i + 2]);
      top = fmaxf(top, shuffle_xor(top, 4));
      top = fmaxf(top, shuffle_xor(top, 8));
      top = fmaxf(top, shuffle_xor(top, 16));
      top = fmaxf(max_[tile][i], top);
      factor[i] = fast_exp2(max_[tile][i] - top);
      max_[tile][i] = top;
      scores[i] = fast_exp2(scores[i] - top);
      scores[i + 2] = fast_exp2(scores[i + 2] - top);
      total_[tile][i] = total_[tile][i] * factor[i] + scores[i] + scores[i + 2];
    }
    b[0] = transpose_8x8(Pair::pack(scores[0], scores[1]));
    b[1] = transpose_8x8(Pair::pack(scores[2], scores[3]));
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      out_[tile][i][0] *= factor[0];
      out_[tile][i][1] *= factor[1];
      out_[tile][i][2] *= factor[0];
      out_[tile][i][3] *= factor[1];
    }
  }

  __device__ __forceinline__ void multiply_values(const uint32_t (&b)[T::kRowTiles][2]) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const uint32_t a0 = value_pair<0>(i);
      const uint32_t a1 = value_pair<0>(i + kTiles);
      const uint32_t a2 = value_pair<2>(i);
      const uint32_t a3 = value_pair<2>(i + kTiles);
#pragma unroll
      for (int tile = 0; tile < T::kRowTiles; ++tile) {
        multiply_add<Pair>(out_[tile][i], a0, a1, a2, a3, b[tile][0], b[tile][1]);
      }
    }
  }

  __device__ __forceinline__ void reset() {
#pragma unroll
    for (int tile = 0; tile < T::kRowTiles; ++tile) {
      max_[tile][0] = max_[tile][1] = kLowest;
      total_[tile][0] = total_[tile][1] = 0.0F;
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          out_[tile][i][j] = 0.0F;
        }
      }
    }
  }

  static constexpr int kTiles = T::kTiles;
  using Pair = typename T::Pair;

  const int g_;
  const int t_;
  uint32_t keys_[2][T::kKeyWords];      // of keys g and g + 8
  uint32_t values_[4][T::kValueWords];  // of keys 2t, 2t + 1, 2t + 8, 2t + 9
  float max_[T::kRowTiles][2];          // of queries 2t, 2t + 1, in units of log 2
  float total_[T::kRowTiles][2];        // this lane's part
  float out_[T::kRowTiles][kTiles][4];
};

}  // namespace atom::gpu
