// Decode attention, the device body: one block works through its share of a batch (share.h), a warp
// a tile of 16 keys at a time (decode_tile.h). Nothing passes through shared memory until the
// warps' partial sums meet at the end of a segment. The last block to bring a piece of an item
// merges its pieces in order. Kernels: decode_launch.h, sm90/decode_launch.h.
#pragma once

#include "kernels/gpu/attention/decode_tile.h"
#include "kernels/gpu/attention/share.h"

namespace atom::gpu {

// Where a warp's tiles come from: straight from the cache into registers, one ahead. A staged
// source (sm90/decode_attention.cu) has them brought to shared memory by others; it gives wait(n),
// the shared address of the block's n-th tile (keys, then values), release(n), and a barrier of the
// block's threads.
struct DirectTiles {
  static constexpr bool kStaged = false;
  __device__ void sync() const { __syncthreads(); }
};

template <class T, class Source = DirectTiles>
class DecodeBody : private DecodeTile<T> {
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
        warp_(static_cast<int>(threadIdx.x) / kLanes) {}

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
  using Tile = DecodeTile<T>;
  using Tile::dim_of, Tile::g_, Tile::keys_, Tile::kTiles, Tile::max_, Tile::out_, Tile::t_;
  using Tile::total_, Tile::values_;

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
    return Tile::query_pairs(args_.q + (segment_.query_start + token_of(r)) * args_.q_stride +
                             head_of(r) * T::kHeadDim + Tile::query_dim(step));
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
  __device__ __forceinline__ const uint8_t* keys_at(int64_t offset) const {
    return static_cast<const uint8_t*>(args_.cache.k) + offset;
  }
  __device__ __forceinline__ const uint8_t* values_at(int64_t offset) const {
    return static_cast<const uint8_t*>(args_.cache.v) + offset;
  }
  __device__ __forceinline__ void hide(int key, float (&scores)[T::kRowTiles][4]) {
    Tile::mask(key, segment_.context_len, scores, [this](int position, int r) {
      return position <= last_key(r) && position >= first_key(r);
    });
  }

  __device__ __forceinline__ void attend() {
    Tile::reset();
    const auto fragment = [this](int tile, int step) { return query(tile, step); };
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
        Tile::load_keys(keys_at(offset));
        Tile::load_values(values_at(offset));
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
        Tile::load_keys(keys_at(offset));
      }
      Tile::multiply_keys(scores, fragment);
      if (!T::kPrefetch) {
        Tile::load_values(values_at(offset));
      }
      const int next = key + T::kUnit;
      if (next < end) {
        offset = offset_of(block, next);
        if (T::kPrefetch) {
          Tile::load_keys(keys_at(offset));
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
        hide(key, scores);
      }
      uint32_t weights[T::kRowTiles][2];
#pragma unroll
      for (int tile = 0; tile < T::kRowTiles; ++tile) {
        Tile::weigh(scores[tile], tile, weights[tile]);
      }
      Tile::multiply_values(weights);
      if (T::kPrefetch && next < end) {
        Tile::load_values(values_at(offset));
      }
    }
  }

  // Tiles in shared memory, taken by the block's warps in turn, over all its segments.
  __device__ __forceinline__ void attend_staged() {
    Tile::reset();
    load_query();
    const auto fragment = [this](int tile, int step) { return query(tile, step); };
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
      Tile::multiply_keys(scores, fragment);
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
        hide(key, scores);
      }
      uint32_t weights[T::kRowTiles][2];
#pragma unroll
      for (int n = 0; n < T::kRowTiles; ++n) {
        Tile::weigh(scores[n], n, weights[n]);
      }
      Tile::multiply_values(weights);
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
  int rows_ = 0;
  int tiles_before_ = 0;  // of the block's segments before this one
  Segment segment_;

  uint2 fragments_[T::kQueryShared ? 1 : T::kRowTiles * T::kSteps];
};

}  // namespace atom::gpu
