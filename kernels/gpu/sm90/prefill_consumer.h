// A warpgroup that multiplies in the prefill kernel of prefill_attention.cu: 64 query rows against
// tiles of 128 keys and values in shared memory. It multiplies the keys of the next tile and the
// values of this one while it exponentiates. Not here: who brings the tiles (prefill_tiles.h).
// Device code, sm_90a, C++20.
#pragma once

#include "kernels/gpu/sm90/prefill_tiles.h"

namespace atom::gpu::sm90 {

// One of the warpgroups that multiply.
template <class L>
class Consumer {
 public:
  static constexpr int kHeadDim = L::kDim;
  static constexpr int kOut = kHeadDim / 2;  // registers of 64 rows' results

  __device__ Consumer(const PagedAttentionArgs& args, bool query_boxes, uint8_t* shared)
      : args_(args),
        query_boxes_(query_boxes),
        barriers_(reinterpret_cast<Barriers*>(shared + L::kBarriers)),
        index_(static_cast<int>(threadIdx.x) / kGroupThreads - 1),
        thread_(static_cast<int>(threadIdx.x) % kGroupThreads),
        queries_(shared + index_ * L::kPanels * kQueryPanelBytes),
        keys_(shared_address(shared + L::kKeyTiles)),
        values_tile_(shared + L::kValueTiles),
        values_(shared_address(shared + L::kValueTiles)),
        group_(args.num_heads / args.num_kv_heads),
        scale_(args.scale * args.cache.k_scale * kLog2E) {}

  __device__ void run() {
    wait_barrier(&barriers_->query_full[tasks_ring_.stage], tasks_ring_.phase);
    tile_ = barriers_->tasks[tasks_ring_.stage];
    query_ = queries_ + tasks_ring_.stage * L::kQueryBytes;
    const KeyRange range(args_, tile_);
    max_[0] = max_[1] = kLowest;
    total_[0] = total_[1] = 0.0F;
#pragma unroll
    for (int i = 0; i < kOut; ++i) {
      out_[i] = 0.0F;
    }
    if (range.begin >= range.end) {  // a padding sequence
      release_query();
      return store();
    }
    if (!query_boxes_) {
      load_query();
    }
    float scores[64];
    uint32_t weights[8][4];
    float factor[2];
    begin_scores(scores);
    products_done<0>();
    hold(scores);
    release_keys();
    weigh(range.begin, scores, factor);
    pack(scores, weights);
    for (int key = range.begin + kKeys; key < range.end; key += kKeys) {
      begin_scores(scores);
      begin_sums(key - kKeys, weights);
      products_done<1>();
      hold(scores);
      release_keys();
      weigh(key, scores, factor);
      products_done<0>();
      hold(out_);
      release_values();
#pragma unroll
      for (int i = 0; i < kOut; ++i) {
        out_[i] *= factor[i / 2 % 2];
      }
      pack(scores, weights);
    }
    release_query();
    begin_sums((range.end - 1) / kKeys * kKeys, weights);
    products_done<0>();
    hold(out_);
    release_values();
    store();
  }

 private:
  __device__ int row_of(int half) const {
    return tile_.first_row + index_ * 64 + thread_ / kLanes * 16 + half * 8 + thread_ % kLanes / 4;
  }
  __device__ int position_of(int row) const {
    return tile_.context_len - tile_.query_len + row / group_;
  }

  // 64 rows, in panels of 64 dims with the swizzle that products expect.
  __device__ void load_query() {
    constexpr int kChunks = kHeadDim / 8;
#pragma unroll
    for (int i = thread_; i < 64 * kChunks; i += kGroupThreads) {
      const int r = i / kChunks;
      const int chunk = i % kChunks;
      const int row = tile_.first_row + index_ * 64 + r;
      uint4 v = {0, 0, 0, 0};
      if (row < tile_.num_rows) {
        v = *reinterpret_cast<const uint4*>(
            args_.q + (tile_.query_start + row / group_) * args_.q_stride +
            (tile_.kv_head * group_ + row % group_) * kHeadDim + chunk * 8);
      }
      *reinterpret_cast<uint4*>(query_ + chunk / 8 * kQueryPanelBytes + r * 128 +
                                ((chunk % 8) ^ (r % 8)) * 16) = v;
    }
    publish_shared();
    warpgroup_barrier(1 + index_);
  }

  __device__ __forceinline__ void begin_scores(float (&scores)[64]) {
    wait_barrier(&barriers_->keys_full[keys_ring_.stage], keys_ring_.phase);
    const uint32_t keys = keys_ + keys_ring_.stage * L::kTileBytes;
    const uint32_t query = shared_address(query_);
    hold(scores);
    begin_products();
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      multiply_128(scores, rows_along_k(query + step / 4 * kQueryPanelBytes + step % 4 * 32),
                   rows_along_k(keys + step / 4 * kPanelBytes + step % 4 * 32), step > 0);
    }
    close_products();
  }

  // Rows from `first` to the end of its box lie behind the sequence's end and may hold anything,
  // even NaN, which a weight of zero would not remove. Both warpgroups write the same zeros.
  __device__ void clear_values(int first) {
    const int count = (kBoxRows - first % kBoxRows) % kBoxRows * 8;  // of 16 bytes, in a panel
    uint8_t* rows = values_tile_ + values_ring_.stage * L::kTileBytes + first * 128;
    for (int i = thread_; i < count * L::kPanels; i += kGroupThreads) {
      *reinterpret_cast<uint4*>(rows + i / count * kPanelBytes + i % count * 16) = {0, 0, 0, 0};
    }
    publish_shared();
    warpgroup_barrier(1 + index_);
  }

  __device__ __forceinline__ void begin_sums(int key, const uint32_t (&weights)[8][4]) {
    wait_barrier(&barriers_->values_full[values_ring_.stage], values_ring_.phase);
    if (key + kKeys > tile_.context_len) {
      clear_values(tile_.context_len - key);
    }
    const uint32_t values = values_ + values_ring_.stage * L::kTileBytes;
    hold(out_);
    begin_products();
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      multiply_rows(out_, weights[step], rows_along_n(values + step * 16 * 128, kPanelBytes));
    }
    close_products();
  }

  __device__ __forceinline__ void release_query() {
    warpgroup_barrier(1 + index_);  // every thread has read the task
    if (thread_ == 0) {
      arrive(&barriers_->query_empty[tasks_ring_.stage]);
    }
    tasks_ring_.next();
  }
  __device__ __forceinline__ void release_keys() {
    if (thread_ == 0) {
      arrive(&barriers_->keys_empty[keys_ring_.stage]);
    }
    keys_ring_.next();
  }
  __device__ __forceinline__ void release_values() {
    if (thread_ == 0) {
      arrive(&barriers_->values_empty[values_ring_.stage]);
    }
    values_ring_.next();
  }

  // Scores become weights; what was summed before has to be multiplied by `factor`.
  __device__ __forceinline__ void weigh(int key, float (&scores)[64], float (&factor)[2]) {
    const int first_row = tile_.first_row + index_ * 64 + thread_ / kLanes * 16;
    const bool masked =
        key + kKeys - 1 > position_of(first_row) ||
        (args_.sliding_window > 0 && key <= position_of(first_row + 15) - args_.sliding_window);
    if (masked) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int position = position_of(row_of(half));
        const int first = args_.sliding_window > 0 ? position - args_.sliding_window + 1 : 0;
#pragma unroll
        for (int n = 0; n < 16; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int at = key + n * 8 + thread_ % 4 * 2 + i;
            if (at > position || at < first) {
              scores[n * 4 + half * 2 + i] = negative_infinity();
            }
          }
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = max_[half];
#pragma unroll
      for (int n = 0; n < 16; ++n) {
        top = fmaxf(top, fmaxf(scores[n * 4 + half * 2], scores[n * 4 + half * 2 + 1]));
      }
      top = fmaxf(top, shuffle_xor(top, 1));
      top = fmaxf(top, shuffle_xor(top, 2));
      factor[half] = fast_exp2((max_[half] - top) * scale_);
      max_[half] = top;
      const float offset = top * scale_;
      float total = 0.0F;
#pragma unroll
      for (int n = 0; n < 16; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[n * 4 + half * 2 + i];
          score = fast_exp2(score * scale_ - offset);
          total += score;
        }
      }
      total_[half] = total_[half] * factor[half] + total;
    }
  }

  static __device__ __forceinline__ void pack(const float (&scores)[64],
                                              uint32_t (&weights)[8][4]) {
#pragma unroll
    for (int step = 0; step < 8; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights[step][i] = PairBf16::pack(scores[step * 8 + i * 2], scores[step * 8 + i * 2 + 1]);
      }
    }
  }

  __device__ void store() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(half);
      float total = total_[half];
      total += shuffle_xor(total, 1);
      total += shuffle_xor(total, 2);
      if (row >= tile_.num_rows) {
        continue;
      }
      const int head = tile_.kv_head * group_ + row % group_;
      float scale = 1.0F;
      if (args_.sinks != nullptr) {
        const float top = max_[half] * scale_;
        const float sink = args_.sinks[head] * kLog2E;
        const float higher = fmaxf(top, sink);
        scale = fast_exp2(top - higher);
        total = total * scale + fast_exp2(sink - higher);
      }
      scale = total > 0.0F ? scale * args_.cache.v_scale / total : 0.0F;
      uint16_t* to =
          args_.out +
          (static_cast<int64_t>(tile_.query_start + row / group_) * args_.num_heads + head) *
              kHeadDim +
          thread_ % 4 * 2;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        *reinterpret_cast<uint32_t*>(to + n * 8) =
            PairBf16::pack(out_[n * 4 + half * 2] * scale, out_[n * 4 + half * 2 + 1] * scale);
      }
    }
  }

  const PagedAttentionArgs& args_;
  Barriers* barriers_;
  int index_;
  int thread_;
  bool query_boxes_;
  uint8_t* queries_;
  uint8_t* query_ = nullptr;  // of this task
  uint32_t keys_;
  uint8_t* values_tile_;
  uint32_t values_;
  int group_;
  float scale_;
  Ring<kStages> keys_ring_;
  Ring<kStages> values_ring_;
  Ring<kTasks> tasks_ring_;
  RowTile tile_;
  float max_[2];    // of rows lane / 4 and 8 further, as scores
  float total_[2];  // this lane's part
  float out_[kOut];
};

}  // namespace atom::gpu::sm90
