// Decode attention, the device body: one block works through its share of a batch (share.h). The
// query rows of a kv head (tokens x heads of its group) are the 8 columns of a product whose 16
// rows are keys, so that a lane's 16-byte load of the cache *is* its fragment: nothing passes
// through shared memory until the warps' partial sums meet at the end of a segment. The last block
// to bring a piece of an item merges its pieces in order. Kernel: decode_attention.cu. To add a
// cache dtype: the words of DecodeTraits and the two *_pair functions.
#pragma once

#include <type_traits>

#include "kernels/gpu/attention/mma.h"
#include "kernels/gpu/attention/share.h"

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

// Where a warp's tiles come from: straight from the cache into registers, one ahead. A staged
// source (sm90/decode_attention.cu) has them brought to shared memory by others; it gives wait(n),
// the shared address of the block's n-th tile (keys, then values), release(n), and a barrier of the
// block's threads.
struct DirectTiles {
  static constexpr bool kStaged = false;
  __device__ void sync() const { __syncthreads(); }
};

template <class T, class Source = DirectTiles>
class DecodeBody {
 public:
  // shared: T::kSharedBytes; counters: one per (sequence, query row); partials: of all slots.
  __device__ DecodeBody(const PagedAttentionArgs& args, uint32_t* shared, int32_t* counters,
                        float* partials, const Source& source = {})
      : args_(args),
        source_(source),
        query_(reinterpret_cast<uint2*>(shared)),
        sums_(reinterpret_cast<float*>(shared) + (T::kQueryShared ? T::kQueryWords : 0)),
        stats_(sums_ + T::kWarps * T::kRows * T::kHeadDim),
        ticket_(reinterpret_cast<int*>(stats_ + T::kWarps * T::kRows * 2)),
        counters_(counters),
        partials_(partials),
        group_(args.num_heads / args.num_kv_heads),
        warp_(static_cast<int>(threadIdx.x) / kLanes),
        g_(static_cast<int>(threadIdx.x) % kLanes / 4),
        t_(static_cast<int>(threadIdx.x) % 4) {}

  __device__ void run(const Segment& segment) {
    segment_ = segment;
    rows_ = segment.query_len * group_ - segment.row_block * T::kRows;
    rows_ = rows_ < T::kRows ? rows_ : T::kRows;
    if constexpr (Source::kStaged) {
      attend_staged();
    } else {
      attend();
    }
    combine();
  }

 private:
  static constexpr int kTiles = T::kTiles;
  using Pair = typename T::Pair;

  // Row r of the item: which token of the sequence and which head.
  __device__ int token_of(int r) const { return (segment_.row_block * T::kRows + r) / group_; }
  __device__ int head_of(int r) const {
    return segment_.kv_head * group_ + (segment_.row_block * T::kRows + r) % group_;
  }
  __device__ int last_key(int r) const {
    return segment_.context_len - segment_.query_len + token_of(r);
  }
  __device__ int first_key(int r) const {
    return args_.sliding_window > 0 ? last_key(r) - args_.sliding_window + 1 : 0;
  }

  // Fragments of the queries in the order of dims of the keys' words.
  __device__ uint2 query_fragment(int tile, int step) const {
    const int r = tile * 8 + g_;
    if (r >= rows_) {
      return {0, 0};
    }
    const int word = T::kE4M3 ? step : 2 * step;
    const int byte =
        word * 4 / T::kKeyLoad * 4 * T::kKeyLoad + t_ * T::kKeyLoad + word * 4 % T::kKeyLoad;
    const uint16_t* row = args_.q + (segment_.query_start + token_of(r)) * args_.q_stride +
                          head_of(r) * T::kHeadDim + byte / T::kElementBytes;
    uint2 pairs = *reinterpret_cast<const uint2*>(row);
    if constexpr (T::kE4M3) {
      pairs.x = PairF16::pack(PairBf16::low(pairs.x), PairBf16::high(pairs.x));
      pairs.y = PairF16::pack(PairBf16::low(pairs.y), PairBf16::high(pairs.y));
    }
    return pairs;
  }

  __device__ void load_query() {
    if constexpr (T::kQueryShared) {
      for (int i = static_cast<int>(threadIdx.x) / kLanes; i < T::kRowTiles * T::kSteps;
           i += T::kWarps) {
        query_[i * kLanes + g_ * 4 + t_] = query_fragment(i / T::kSteps, i % T::kSteps);
      }
      source_.sync();
    } else {
#pragma unroll
      for (int i = 0; i < T::kRowTiles * T::kSteps; ++i) {
        fragments_[i] = query_fragment(i / T::kSteps, i % T::kSteps);
      }
    }
  }

  __device__ __forceinline__ uint2 query(int tile, int step) const {
    if constexpr (T::kQueryShared) {
      return query_[(tile * T::kSteps + step) * kLanes + g_ * 4 + t_];
    } else {
      return fragments_[tile * T::kSteps + step];
    }
  }

  // --- the cache
  __device__ __forceinline__ int block_of(int key) const {
    return args_.metadata.block_tables[segment_.sequence * args_.metadata.block_table_stride +
                                       key / static_cast<int>(args_.cache.block_size)];
  }
  __device__ __forceinline__ int64_t offset_of(int block, int key) const {
    const int size = static_cast<int>(args_.cache.block_size);
    return ((static_cast<int64_t>(block) * args_.num_kv_heads + segment_.kv_head) * size +
            key % size) *
           T::kRowBytes;
  }
  __device__ __forceinline__ void load_keys(int64_t offset) {
    const uint8_t* rows =
        static_cast<const uint8_t*>(args_.cache.k) + offset + g_ * T::kRowBytes + t_ * T::kKeyLoad;
#pragma unroll
    for (int i = 0; i < T::kKeyWords * 4 / T::kKeyLoad; ++i) {
      load_stream<T::kKeyLoad>(keys_[0] + i * (T::kKeyLoad / 4), rows + i * 4 * T::kKeyLoad);
      load_stream<T::kKeyLoad>(keys_[1] + i * (T::kKeyLoad / 4),
                               rows + 8 * T::kRowBytes + i * 4 * T::kKeyLoad);
    }
  }
  __device__ __forceinline__ void load_values(int64_t offset) {
    const uint8_t* rows = static_cast<const uint8_t*>(args_.cache.v) + offset + g_ * T::kValueLoad;
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

  // --- one tile of 16 keys
  __device__ __forceinline__ void multiply_keys(float (&scores)[T::kRowTiles][4]) const {
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

  // Hides the keys that a query does not see. Values of keys beyond the context may be anything,
  // even NaN, which a weight of zero would not remove.
  __device__ __forceinline__ void mask(int key, float (&scores)[T::kRowTiles][4]) {
#pragma unroll
    for (int tile = 0; tile < T::kRowTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int position = key + g_ + (i >> 1) * 8;
        const int r = tile * 8 + 2 * t_ + (i & 1);
        if (position > last_key(r) || position < first_key(r)) {
          scores[tile][i] = negative_infinity();
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (key + 2 * t_ + (j & 1) + (j >> 1) * 8 >= segment_.context_len) {
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

  __device__ __forceinline__ void attend() {
    reset();
    const float scale = args_.scale * kLog2E * (T::kE4M3 ? args_.cache.k_scale : 1.0F);
    const int open_end = segment_.context_len - segment_.query_len + 1;  // all rows see these keys
    const int closed_begin =
        args_.sliding_window > 0 ? segment_.context_len - args_.sliding_window : 0;
    int key = segment_.key_begin + warp_ * 16;
    const int end = segment_.key_end;
    int64_t offset = 0;
    if (key < end) {
      offset = offset_of(block_of(key), key);
      if (T::kPrefetch) {
        load_keys(offset);
        load_values(offset);
      }
    }
    load_query();
    if (key >= end) {
      return;
    }
    int block = key + T::kUnit < end ? block_of(key + T::kUnit) : 0;
    for (; key < end; key += T::kUnit) {
      float scores[T::kRowTiles][4] = {};
      if (!T::kPrefetch) {
        load_keys(offset);
      }
      multiply_keys(scores);
      if (!T::kPrefetch) {
        load_values(offset);
      }
      const int next = key + T::kUnit;
      if (next < end) {
        offset = offset_of(block, next);
        if (T::kPrefetch) {
          load_keys(offset);
        }
        block = next + T::kUnit < end ? block_of(next + T::kUnit) : 0;
      }
#pragma unroll
      for (int tile = 0; tile < T::kRowTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          scores[tile][i] *= scale;
        }
      }
      if (key + 16 > open_end || key < closed_begin) {
        mask(key, scores);
      }
      uint32_t weights[T::kRowTiles][2];
#pragma unroll
      for (int tile = 0; tile < T::kRowTiles; ++tile) {
        weigh(scores[tile], tile, weights[tile]);
      }
      multiply_values(weights);
      if (T::kPrefetch && next < end) {
        load_values(offset);
      }
    }
  }

  // Tiles in shared memory, taken by the block's warps in turn, over all its segments.
  __device__ __forceinline__ void attend_staged() {
    reset();
    load_query();
    const float scale = args_.scale * kLog2E * (T::kE4M3 ? args_.cache.k_scale : 1.0F);
    const int open_end = segment_.context_len - segment_.query_len + 1;
    const int closed_begin =
        args_.sliding_window > 0 ? segment_.context_len - args_.sliding_window : 0;
    const int tiles = (segment_.key_end - segment_.key_begin + 15) / 16;
    for (int i = (warp_ - tiles_before_ % T::kWarps + T::kWarps) % T::kWarps; i < tiles;
         i += T::kWarps) {
      const uint32_t tile = source_.wait(tiles_before_ + i);
      const int key = segment_.key_begin + i * 16;
      const uint32_t key_rows = tile + g_ * T::kRowBytes + t_ * T::kKeyLoad;
#pragma unroll
      for (int n = 0; n < T::kKeyWords * 4 / T::kKeyLoad; ++n) {
        load_shared<T::kKeyLoad>(keys_[0] + n * (T::kKeyLoad / 4), key_rows + n * 4 * T::kKeyLoad);
        load_shared<T::kKeyLoad>(keys_[1] + n * (T::kKeyLoad / 4),
                                 key_rows + 8 * T::kRowBytes + n * 4 * T::kKeyLoad);
      }
      float scores[T::kRowTiles][4] = {};
      multiply_keys(scores);
      const uint32_t value_rows = tile + 16 * T::kRowBytes + g_ * T::kValueLoad;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = 2 * t_ + (j & 1) + (j >> 1) * 8;
#pragma unroll
        for (int n = 0; n < T::kValueWords * 4 / T::kValueLoad; ++n) {
          load_shared<T::kValueLoad>(values_[j] + n * (T::kValueLoad / 4),
                                     value_rows + row * T::kRowBytes + n * 8 * T::kValueLoad);
        }
      }
      source_.release(tiles_before_ + i);
#pragma unroll
      for (int n = 0; n < T::kRowTiles; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          scores[n][j] *= scale;
        }
      }
      if (key + 16 > open_end || key < closed_begin) {
        mask(key, scores);
      }
      uint32_t weights[T::kRowTiles][2];
#pragma unroll
      for (int n = 0; n < T::kRowTiles; ++n) {
        weigh(scores[n], n, weights[n]);
      }
      multiply_values(weights);
    }
    tiles_before_ += tiles > 0 ? tiles : 0;
  }

  // --- the end of a segment
  // The warps' sums meet in shared memory; the block's result goes to `out`, or to a slot when the
  // item has more pieces.
  __device__ void combine() {
#pragma unroll
    for (int tile = 0; tile < T::kRowTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float total = total_[tile][i];
        total += shuffle_xor(total, 4);
        total += shuffle_xor(total, 8);
        total += shuffle_xor(total, 16);
        if (g_ == 0) {
          const int r = tile * 8 + 2 * t_ + i;
          stats_[(warp_ * T::kRows + r) * 2] = max_[tile][i];
          stats_[(warp_ * T::kRows + r) * 2 + 1] = total;
        }
      }
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int r = tile * 8 + 2 * t_ + (j & 1);
          if (r < rows_) {
            sums_[(warp_ * T::kRows + r) * T::kHeadDim + dim_of(i + (j >> 1) * kTiles)] =
                out_[tile][i][j];
          }
        }
      }
    }
    source_.sync();
    const bool whole = segment_.num_pieces == 1;
    float* slot = slot_of(segment_.piece);
    for (int e = static_cast<int>(threadIdx.x) * 4; e < rows_ * T::kHeadDim; e += T::kThreads * 4) {
      const int r = e / T::kHeadDim;
      float top = kLowest;
#pragma unroll
      for (int w = 0; w < T::kWarps; ++w) {
        top = fmaxf(top, stats_[(w * T::kRows + r) * 2]);
      }
      float4 value = {0.0F, 0.0F, 0.0F, 0.0F};
      float total = 0.0F;
#pragma unroll
      for (int w = 0; w < T::kWarps; ++w) {
        const float factor = fast_exp2(stats_[(w * T::kRows + r) * 2] - top);
        add_scaled(value, sums_ + w * T::kRows * T::kHeadDim + e, factor);
        total += factor * stats_[(w * T::kRows + r) * 2 + 1];
      }
      if (whole) {
        store(e, value, top, total);
      } else {
        *reinterpret_cast<float4*>(slot + 2 * T::kRows + e) = value;
        if (e % T::kHeadDim == 0) {
          slot[2 * r] = top;
          slot[2 * r + 1] = total;
        }
      }
    }
    if (!whole) {
      merge();
    }
    source_.sync();  // sums_ and query_ are free for the next segment
  }

  __device__ float* slot_of(int piece) const {
    return partials_ + static_cast<int64_t>(segment_.slot(piece)) * (T::kRows * (T::kHeadDim + 2));
  }

  static __device__ __forceinline__ void add_scaled(float4& to, const float* from, float factor) {
    const float4 v = *reinterpret_cast<const float4*>(from);
    to.x += v.x * factor;
    to.y += v.y * factor;
    to.z += v.z * factor;
    to.w += v.w * factor;
  }

  // Four neighbouring dims of a row.
  __device__ void store(int e, const float4& value, float top, float total) const {
    const int r = e / T::kHeadDim;
    const int head = head_of(r);
    float scale = T::kE4M3 ? args_.cache.v_scale : 1.0F;
    if (args_.sinks != nullptr) {
      const float sink = args_.sinks[head] * kLog2E;
      const float higher = fmaxf(top, sink);
      const float factor = fast_exp2(top - higher);
      scale *= factor;
      total = total * factor + fast_exp2(sink - higher);
    }
    scale = total > 0.0F ? scale / total : 0.0F;
    uint16_t* to =
        args_.out +
        (static_cast<int64_t>(segment_.query_start + token_of(r)) * args_.num_heads + head) *
            T::kHeadDim +
        e % T::kHeadDim;
    *reinterpret_cast<uint2*>(to) = {PairBf16::pack(value.x * scale, value.y * scale),
                                     PairBf16::pack(value.z * scale, value.w * scale)};
  }

  // The last block to arrive adds up the pieces in order: first each row's maximum and total, a
  // warp a row, then the values.
  __device__ void merge() {
    int32_t* counter =
        counters_ +
        (static_cast<int64_t>(segment_.sequence) * args_.num_kv_heads + segment_.kv_head) * group_ *
            args_.max_decode_queries +
        segment_.row_block * T::kRows;
    __threadfence();
    source_.sync();
    if (threadIdx.x == 0) {
      *ticket_ = atomicAdd(counter, 1);
    }
    source_.sync();
    if (*ticket_ != segment_.num_pieces - 1) {
      return;
    }
    __threadfence();
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    for (int r = warp_; r < rows_; r += T::kWarps) {
      float top = kLowest;
      float total = 0.0F;
      for (int p = lane; p < segment_.num_pieces; p += kLanes) {
        const float2 piece = load_pair(slot_of(p) + 2 * r);
        const float higher = fmaxf(top, piece.x);
        total = total * fast_exp2(top - higher) + piece.y * fast_exp2(piece.x - higher);
        top = higher;
      }
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) {
        const float other_top = shuffle_xor(top, step);
        const float other_total = shuffle_xor(total, step);
        const float higher = fmaxf(top, other_top);
        total = total * fast_exp2(top - higher) + other_total * fast_exp2(other_top - higher);
        top = higher;
      }
      if (lane == 0) {
        stats_[2 * r] = top;
        stats_[2 * r + 1] = total;
      }
    }
    source_.sync();
    for (int e = static_cast<int>(threadIdx.x) * 4; e < rows_ * T::kHeadDim; e += T::kThreads * 4) {
      const int r = e / T::kHeadDim;
      const float top = stats_[2 * r];
      float4 value = {0.0F, 0.0F, 0.0F, 0.0F};
#pragma unroll 8
      for (int p = 0; p < segment_.num_pieces; ++p) {
        const float* slot = slot_of(p);
        const float factor = fast_exp2(load_shared_level(slot + 2 * r) - top);
        const float4 v = __ldcg(reinterpret_cast<const float4*>(slot + 2 * T::kRows + e));
        value.x += v.x * factor;
        value.y += v.y * factor;
        value.z += v.z * factor;
        value.w += v.w * factor;
      }
      store(e, value, top, stats_[2 * r + 1]);
    }
    if (threadIdx.x == 0) {
      *counter = 0;
    }
  }
  static __device__ __forceinline__ float2 load_pair(const float* from) {
    return __ldcg(reinterpret_cast<const float2*>(from));
  }

  const PagedAttentionArgs& args_;
  Source source_;
  uint2* query_;
  float* sums_;   // [kWarps, kRows, kHeadDim]
  float* stats_;  // [kWarps, kRows]: maximum, sum of weights
  int* ticket_;
  int32_t* counters_;
  float* partials_;
  int group_;
  int warp_;
  int g_;
  int t_;
  int rows_ = 0;
  int tiles_before_ = 0;  // of the block's segments before this one
  Segment segment_;

  uint2 fragments_[T::kQueryShared ? 1 : T::kRowTiles * T::kSteps];
  uint32_t keys_[2][T::kKeyWords];      // of keys g and g + 8
  uint32_t values_[4][T::kValueWords];  // of keys 2t, 2t + 1, 2t + 8, 2t + 9
  float max_[T::kRowTiles][2];          // of queries 2t, 2t + 1, in units of log 2
  float total_[T::kRowTiles][2];        // this lane's part
  float out_[T::kRowTiles][kTiles][4];
};

}  // namespace atom::gpu
