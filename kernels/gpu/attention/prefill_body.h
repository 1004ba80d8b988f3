// Prefill attention, the portable device body (FlashAttention-2's loop): a block holds 64 query
// rows of one kv head (tokens x heads of its group, so that the group shares what is loaded), 16 a
// warp, and walks over tiles of keys from the first that a row sees to the last. A tile passes
// through shared memory, keys while the values of the tile before are multiplied and the other way
// round; an e4m3 cache is converted to f16 on the way. Kernel: prefill_launch.h; Hopper's own form:
// sm90/. Device code.
#pragma once

#include <type_traits>

#include "kernels/gpu/attention/mma.h"
#include "kernels/gpu/attention/prefill_tasks.h"

namespace atom::gpu {

template <int kHeadDim_, bool kE4M3_>
struct PrefillTraits {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr bool kE4M3 = kE4M3_;
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * kLanes;
  static constexpr int kRows = 16 * kWarps;
  static constexpr int kKeys = kHeadDim > 128 ? 32 : 64;
  static constexpr int kChunks = kHeadDim / 8;  // of 16 bytes, in a row of 16-bit values
  static constexpr int kSteps = kHeadDim / 16;
  static constexpr int kKeyTiles = kKeys / 8;
  static constexpr int kDimTiles = kHeadDim / 8;
  static constexpr int kRowBytes = kHeadDim * (kE4M3 ? 1 : 2);  // in the cache
  static constexpr int kSharedBytes = (kRows + 2 * kKeys) * kHeadDim * 2;
  using Pair = std::conditional_t<kE4M3, PairF16, PairBf16>;
};

template <class T>
class PrefillBody {
 public:
  __device__ PrefillBody(const PagedAttentionArgs& args, uint4* shared)
      : args_(args),
        query_(shared),
        keys_(query_ + T::kRows * T::kChunks),
        values_(keys_ + T::kKeys * T::kChunks),
        group_(args.num_heads / args.num_kv_heads),
        warp_(static_cast<int>(threadIdx.x) / kLanes),
        lane_(static_cast<int>(threadIdx.x) % kLanes) {}

  __device__ void run(const RowTile& tile) {
    tile_ = tile;
    const int last_row = tile.first_row + T::kRows < tile.num_rows ? tile.first_row + T::kRows - 1
                                                                   : tile.num_rows - 1;
    const int before = tile.context_len - tile.query_len;
    end_ = before + last_row / group_ + 1;
    const int first = before + tile.first_row / group_ - args_.sliding_window + 1;
    const int begin = args_.sliding_window > 0 && first > 0 ? first / T::kKeys * T::kKeys : 0;
    __syncthreads();  // the tile before is read
    load_query();
    load_tile(begin, args_.cache.k, keys_);
    load_tile(begin, args_.cache.v, values_);
    reset();
    for (int key = begin; key < end_; key += T::kKeys) {
      copies_done<1>();  // the keys
      __syncthreads();
      float scores[T::kKeyTiles][4];
      multiply_keys(scores);
      __syncthreads();
      load_tile(key + T::kKeys, args_.cache.k, keys_);
      weigh(key, scores);
      copies_done<1>();  // the values
      __syncthreads();
      multiply_values(scores);
      __syncthreads();
      load_tile(key + T::kKeys, args_.cache.v, values_);
    }
    copies_done<0>();
    store();
  }

 private:
  using Pair = typename T::Pair;

  __device__ int row_of(int half) const {
    return tile_.first_row + warp_ * 16 + half * 8 + lane_ / 4;
  }
  __device__ int position_of(int row) const {
    return tile_.context_len - tile_.query_len + row / group_;
  }

  // Rows of 16-bit values lie as 16-byte chunks, their index crossed with the row's, so that eight
  // rows' equal chunks lie in different banks.
  static __device__ __forceinline__ int place(int row, int chunk) {
    return row * T::kChunks +
           (chunk ^ (row & 7 & (T::kChunks - 1) & ~(T::kChunks % 8 == 0 ? 0 : 4)));
  }

  __device__ void load_query() {
    for (int i = static_cast<int>(threadIdx.x); i < T::kRows * T::kChunks; i += T::kThreads) {
      const int r = i / T::kChunks;
      const int chunk = i % T::kChunks;
      const int row = tile_.first_row + r;
      const bool valid = row < tile_.num_rows;
      const int head = tile_.kv_head * group_ + row % group_;
      const uint16_t* from =
          args_.q + (valid ? (tile_.query_start + row / group_) * args_.q_stride +
                                 head * T::kHeadDim + chunk * 8
                           : 0);
      if constexpr (T::kE4M3) {
        const uint4 v = *reinterpret_cast<const uint4*>(from);
        const auto convert = [&](uint32_t x) {
          return valid ? PairF16::pack(PairBf16::low(x), PairBf16::high(x)) : 0U;
        };
        query_[place(r, chunk)] = {convert(v.x), convert(v.y), convert(v.z), convert(v.w)};
      } else {
        copy_async(&query_[place(r, chunk)], from, valid);
      }
    }
  }

  // One tile of the cache, rows beyond the last key that is seen as zeros.
  __device__ __forceinline__ void load_tile(int first_key, const void* cache, uint4* to) {
    const int size = static_cast<int>(args_.cache.block_size);
    const int32_t* table =
        args_.metadata.block_tables + tile_.sequence * args_.metadata.block_table_stride;
    constexpr int kPieces = T::kRowBytes / 16;  // of 16 bytes in the cache's row
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < T::kKeys * kPieces; i += T::kThreads) {
      const int r = i / kPieces;
      const int piece = i % kPieces;
      const int key = first_key + r;
      const bool valid = key < end_;
      const int block = valid ? table[key / size] : 0;
      const uint8_t* from =
          static_cast<const uint8_t*>(cache) +
          ((static_cast<int64_t>(block) * args_.num_kv_heads + tile_.kv_head) * size + key % size) *
              T::kRowBytes +
          piece * 16;
      if constexpr (T::kE4M3) {
        uint4 v = {};
        if (valid) {
          v = *reinterpret_cast<const uint4*>(from);
        }
        to[place(r, 2 * piece)] = {low_pair(v.x), high_pair(v.x), low_pair(v.y), high_pair(v.y)};
        to[place(r, 2 * piece + 1)] = {low_pair(v.z), high_pair(v.z), low_pair(v.w),
                                       high_pair(v.w)};
      } else {
        copy_async(&to[place(r, piece)], from, valid);
      }
    }
    close_copy_group();
  }
  static __device__ __forceinline__ uint32_t low_pair(uint32_t bytes) { return e4m3_to_f16(bytes); }
  static __device__ __forceinline__ uint32_t high_pair(uint32_t bytes) {
    return e4m3_to_f16(bytes >> 16);
  }

  __device__ void reset() {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      max_[i] = kLowest;
      total_[i] = 0.0F;
    }
#pragma unroll
    for (int n = 0; n < T::kDimTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        out_[n][i] = 0.0F;
      }
    }
  }

  __device__ __forceinline__ void multiply_keys(float (&scores)[T::kKeyTiles][4]) const {
#pragma unroll
    for (int n = 0; n < T::kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[n][i] = 0.0F;
      }
    }
#pragma unroll
    for (int step = 0; step < T::kSteps; ++step) {
      uint32_t a[4];
      load_matrices<false>(a, &query_[place(warp_ * 16 + lane_ % 16, step * 2 + lane_ / 16)]);
#pragma unroll
      for (int n = 0; n < T::kKeyTiles; n += 2) {
        uint32_t b[4];
        load_matrices<false>(
            b, &keys_[place(n * 8 + lane_ / 16 * 8 + lane_ % 8, step * 2 + lane_ / 8 % 2)]);
        multiply_add<Pair>(scores[n], a[0], a[1], a[2], a[3], b[0], b[1]);
        multiply_add<Pair>(scores[n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
      }
    }
  }

  // Scores become weights; what was summed before is scaled to the new maximum.
  __device__ __forceinline__ void weigh(int key, float (&scores)[T::kKeyTiles][4]) {
    const float scale = args_.scale * kLog2E * (T::kE4M3 ? args_.cache.k_scale : 1.0F);
    const int first_position = position_of(tile_.first_row + warp_ * 16);
    const int last_position = position_of(tile_.first_row + warp_ * 16 + 15);
    const bool masked = key + T::kKeys - 1 > first_position ||
                        (args_.sliding_window > 0 && key <= last_position - args_.sliding_window);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int position = position_of(row_of(half));
      const int first = args_.sliding_window > 0 ? position - args_.sliding_window + 1 : 0;
      float top = kLowest;
#pragma unroll
      for (int n = 0; n < T::kKeyTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[n][half * 2 + i];
          score *= scale;
          const int at = key + n * 8 + lane_ % 4 * 2 + i;
          if (masked && (at > position || at < first)) {
            score = negative_infinity();
          }
          top = fmaxf(top, score);
        }
      }
      top = fmaxf(top, shuffle_xor(top, 1));
      top = fmaxf(top, shuffle_xor(top, 2));
      top = fmaxf(max_[half], top);
      const float factor = fast_exp2(max_[half] - top);
      max_[half] = top;
      float total = 0.0F;
#pragma unroll
      for (int n = 0; n < T::kKeyTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[n][half * 2 + i];
          score = fast_exp2(score - top);
          total += score;
        }
      }
      total_[half] = total_[half] * factor + total;
#pragma unroll
      for (int n = 0; n < T::kDimTiles; ++n) {
        out_[n][half * 2] *= factor;
        out_[n][half * 2 + 1] *= factor;
      }
    }
  }

  __device__ __forceinline__ void multiply_values(const float (&weights)[T::kKeyTiles][4]) {
#pragma unroll
    for (int step = 0; step < T::kKeys / 16; ++step) {
      const uint32_t a0 = Pair::pack(weights[2 * step][0], weights[2 * step][1]);
      const uint32_t a1 = Pair::pack(weights[2 * step][2], weights[2 * step][3]);
      const uint32_t a2 = Pair::pack(weights[2 * step + 1][0], weights[2 * step + 1][1]);
      const uint32_t a3 = Pair::pack(weights[2 * step + 1][2], weights[2 * step + 1][3]);
#pragma unroll
      for (int n = 0; n < T::kDimTiles; n += 2) {
        uint32_t b[4];
        load_matrices<true>(b, &values_[place(step * 16 + lane_ % 16, n + lane_ / 16)]);
        multiply_add<Pair>(out_[n], a0, a1, a2, a3, b[0], b[1]);
        multiply_add<Pair>(out_[n + 1], a0, a1, a2, a3, b[2], b[3]);
      }
    }
  }

  __device__ void store() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(half);
      const int head = tile_.kv_head * group_ + row % group_;
      float total = total_[half];
      total += shuffle_xor(total, 1);
      total += shuffle_xor(total, 2);
      float scale = T::kE4M3 ? args_.cache.v_scale : 1.0F;
      if (args_.sinks != nullptr && row < tile_.num_rows) {
        const float sink = args_.sinks[head] * kLog2E;
        const float higher = fmaxf(max_[half], sink);
        const float factor = fast_exp2(max_[half] - higher);
        total = total * factor + fast_exp2(sink - higher);
        scale *= factor;
      }
      scale = total > 0.0F ? scale / total : 0.0F;
      if (row < tile_.num_rows) {
        uint16_t* to =
            args_.out +
            (static_cast<int64_t>(tile_.query_start + row / group_) * args_.num_heads + head) *
                T::kHeadDim +
            lane_ % 4 * 2;
#pragma unroll
        for (int n = 0; n < T::kDimTiles; ++n) {
          *reinterpret_cast<uint32_t*>(to + n * 8) =
              PairBf16::pack(out_[n][half * 2] * scale, out_[n][half * 2 + 1] * scale);
        }
      }
    }
  }

  const PagedAttentionArgs& args_;
  uint4* query_;   // [kRows, kChunks]
  uint4* keys_;    // [kKeys, kChunks]
  uint4* values_;  // [kKeys, kChunks]
  int group_;
  int warp_;
  int lane_;
  int end_ = 0;  // keys that any row of the tile sees
  RowTile tile_;

  float max_[2];    // of rows lane / 4 and 8 further, in units of log 2
  float total_[2];  // this lane's part
  float out_[T::kDimTiles][4];
};

}  // namespace atom::gpu
