// What a block of latent attention does on Hopper (mla_attention.cu): 64 rows (token, head) of one
// sequence. A warp brings tiles of 64 cache rows by bulk tensor copies, once for keys and values
// both, by halves: panels 0..3 and 4..8 of 64 columns. Two warpgroups: each computes scores and
// weights of every other tile, and sums its half of the value columns over all tiles; the weights
// go from one to the other as registers, since both hold the same rows of a product. While one
// weighs, the other multiplies. 512 + 64 values of bf16. sm_90a only. Device code, C++20.
#pragma once

#include "kernels/gpu/attention/mma.h"
#include "kernels/gpu/mla/tile.h"
#include "kernels/gpu/sm90/hopper.h"

namespace atom::gpu::sm90::latent {

inline constexpr int kRank = 512;
inline constexpr int kRowValues = 576;
inline constexpr int kKeys = 64;              // of a tile
inline constexpr int kPanelBytes = 64 * 128;  // 64 rows of 64 columns
inline constexpr int kPanels = kRowValues / 64;
inline constexpr int kLeftPanels = 4;
inline constexpr int kTileBytes = kPanels * kPanelBytes;
inline constexpr int kGroupThreads = 128;
inline constexpr int kGroupWarps = kGroupThreads / kLanes;
inline constexpr int kThreads = 3 * kGroupThreads;
inline constexpr int kBothGroups = 2;  // the barrier of the two; each has its own, 3 and 4

// What a warpgroup hands to the other one for a tile of its own, a thread each.
struct Handed {
  uint4 weights[4][kGroupThreads];  // 16 values along k each
  float4 state[kGroupThreads];      // largest scores of rows lane / 4 and 8 further, and factors
};

// Tile 0 is of the first warpgroup, 1 of the second. `full` and `empty`: [tile][half]; a half is
// empty when the warpgroup that sums its columns has done so, which is after all scores.
struct Control {
  Handed handed;  // to and fro: thread t reads what thread t of the other one wrote
  uint64_t full[2][2];
  uint64_t empty[2][2];
  uint64_t weighed[2];
};
// queries, two tiles, control
inline constexpr int kTiles = kTileBytes;
inline constexpr int kControl = kTiles + 2 * kTileBytes;
inline constexpr int kSharedBytes = kControl + static_cast<int>(sizeof(Control));
static_assert(kSharedBytes <= 227 * 1024);

// Which tiles of keys a block takes.
struct Keys {
  int end;  // of the keys that any of its rows sees
  int first_tile;
  int last_tile;
  __device__ Keys(const MlaGrid& grid, const MlaTile& tile) : end(tile.position + tile.num_tokens) {
    const int tiles = (end + kKeys - 1) / kKeys;
    const int share = (tiles + grid.splits - 1) / grid.splits;
    first_tile = static_cast<int>(blockIdx.z) * share;
    last_tile = min(tiles, first_tile + share);
  }
};

// One warp; copies of `box` rows by 64 columns.
__device__ void bring_tiles(const MlaAttentionArgs& args, const MlaTile& tile, const Keys& keys,
                            const CUtensorMap* map, int box, uint8_t* shared) {
  auto* control = reinterpret_cast<Control*>(shared + kControl);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const auto size = static_cast<int>(args.metadata.block_size);
  const int32_t* table =
      args.metadata.block_tables + tile.sequence * args.metadata.block_table_stride;
  const int boxes = kKeys / box;
  const int own_box = lane % boxes;
  uint32_t phase = 1;
  for (int i = keys.first_tile; i < keys.last_tile; ++i) {
    const int slot = (i - keys.first_tile) % 2;
    const int key = i * kKeys + own_box * box;
    // Looked up while the tile is still in use. What lies outside arrives as zeros.
    const int row = key < keys.end ? table[key / size] * size + key % size : 0x7ffffff0;
    uint8_t* to = shared + kTiles + slot * kTileBytes + own_box * box * 128;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      wait_barrier(&control->empty[slot][half], phase);
      uint64_t* full = &control->full[slot][half];
      if (lane == 0) {
        expect_bytes(full, (half == 0 ? kLeftPanels : kPanels - kLeftPanels) * kPanelBytes);
      }
      warp_sync();
      const int last = half == 0 ? kLeftPanels : kPanels;
      for (int panel = half * kLeftPanels + lane / boxes; panel < last; panel += kLanes / boxes) {
        copy_box(to + panel * kPanelBytes, map, panel * 64, row, full);
      }
    }
    phase ^= slot;
  }
}

// A warpgroup that multiplies.
class Group {
 public:
  __device__ Group(const MlaAttentionArgs& args, const MlaGrid& grid, const MlaTile& tile,
                   const Keys& keys, uint8_t* shared)
      : args_(args),
        grid_(grid),
        tile_(tile),
        keys_(keys),
        shared_(shared),
        control_(reinterpret_cast<Control*>(shared + kControl)),
        index_(static_cast<int>(threadIdx.x) / kGroupThreads),
        thread_(static_cast<int>(threadIdx.x) % kGroupThreads),
        scale_(args.scale * kLog2E) {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
#pragma unroll
      for (int i = 0; i < 64; ++i) {
        out_[part][i] = 0.0F;
      }
    }
  }

  // Both warpgroups.
  __device__ void load_query() {
#pragma unroll 6
    for (int i = static_cast<int>(threadIdx.x); i < 64 * (kRowValues / 8); i += 2 * kGroupThreads) {
      const int row = i / (kRowValues / 8);
      const int piece = i % (kRowValues / 8);  // of 8 values
      const bool is_valid = valid(row);
      copy_async(shared_ + piece / 8 * kPanelBytes + row * 128 + ((piece % 8) ^ (row % 8)) * 16,
                 args_.query + (is_valid ? step_row(row) * kRowValues + piece * 8 : 0), is_valid);
    }
    close_copy_group();
    copies_done<0>();
    publish_shared();
    asm volatile("bar.sync %0, 256;" ::"n"(kBothGroups) : "memory");
  }

  // The first warpgroup.
  __device__ void run_even() {
    uint32_t phase = 0;
    for (int i = keys_.first_tile; i < keys_.last_tile; i += 2, phase ^= 1) {
      float scores[32];
      uint32_t weights[4][4];
      float factor[2];
      multiply_keys(0, phase, scores);
      hide(0, i, scores);
      weigh(scores, weights, factor);
      hand_over(0, weights, factor);
      sum_values(0, weights, factor);
      products_done<0>();
      release(0);
      if (i + 1 < keys_.last_tile) {
        take_over(1, phase, weights, factor);
        wait_barrier(&control_->full[1][0], phase);
        sum_values(1, weights, factor);
        products_done<0>();
        release(1);
      }
    }
  }

  // The second one.
  __device__ void run_odd() {
    uint32_t phase = 0;
    uint32_t weights[4][4];
    float factor[2];
    int i = keys_.first_tile;
    for (; i + 1 < keys_.last_tile; i += 2, phase ^= 1) {
      float scores[32];
      uint32_t own[4][4];
      multiply_keys(1, phase, scores);
      hide(1, i + 1, scores);
      take_over(0, phase, weights, factor);
      wait_barrier(&control_->full[0][1], phase);
      sum_values(0, weights, factor);
      weigh(scores, own, factor);
      hand_over(1, own, factor);
      products_done<0>();
      release(0);
      sum_values(1, own, factor);
      products_done<0>();
      release(1);
    }
    if (i < keys_.last_tile) {  // the first warpgroup's last tile has no neighbour
      take_over(0, phase, weights, factor);
      wait_barrier(&control_->full[0][1], phase);
      sum_values(0, weights, factor);
      products_done<0>();
      release(0);
    }
  }

  // Once all scores are computed, which makes the queries' memory free: adds up both warpgroups'
  // weights, and stores to the result, or to the sums of this split: [splits, num_tokens *
  // num_heads, rank].
  __device__ void finish() {
    auto* totals = reinterpret_cast<float2*>(shared_);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      total_[half] += shuffle_xor(total_[half], 1);
      total_[half] += shuffle_xor(total_[half], 2);
    }
    totals[index_ * kGroupThreads + thread_] = make_float2(total_[0], total_[1]);
    asm volatile("bar.sync %0, 256;" ::"n"(kBothGroups) : "memory");
    const float2 other = totals[(1 - index_) * kGroupThreads + thread_];
    store(0, total_[0] + other.x);
    store(1, total_[1] + other.y);
  }

 private:
  __device__ int row_of(int half) const {
    return thread_ / kLanes * 16 + half * 8 + thread_ % kLanes / 4;
  }
  __device__ bool valid(int row) const {
    return row / grid_.tile_heads < tile_.num_tokens &&
           tile_.first_head + row % grid_.tile_heads < args_.shape.num_heads;
  }
  // Of the step's rows [num_tokens, num_heads].
  __device__ int64_t step_row(int row) const {
    return (int64_t{tile_.first_token} + row / grid_.tile_heads) * args_.shape.num_heads +
           tile_.first_head + row % grid_.tile_heads;
  }
  // One arrival a warp, after all its lanes.
  __device__ __forceinline__ void signal(uint64_t* barrier) const {
    warp_sync();
    if (thread_ % kLanes == 0) {
      arrive(barrier);
    }
  }

  // Scores of this warpgroup's own tile.
  __device__ __forceinline__ void multiply_keys(int slot, uint32_t phase, float (&scores)[32]) {
    const uint32_t query = shared_address(shared_);
    const uint32_t keys = query + kTiles + slot * kTileBytes;
    constexpr int kSteps = kRowValues / 16;
    constexpr int kLeft = kLeftPanels * 4;
    wait_barrier(&control_->full[slot][0], phase);
    hold(scores);
    begin_products();
#pragma unroll
    for (int step = 0; step < kLeft; ++step) {
      const int at = step / 4 * kPanelBytes + step % 4 * 32;
      multiply_64(scores, rows_along_k(query + at), rows_along_k(keys + at), step > 0);
    }
    close_products();
    wait_barrier(&control_->full[slot][1], phase);
    begin_products();
#pragma unroll
    for (int step = kLeft; step < kSteps; ++step) {
      const int at = step / 4 * kPanelBytes + step % 4 * 32;
      multiply_64(scores, rows_along_k(query + at), rows_along_k(keys + at), true);
    }
    close_products();
    products_done<0>();
    hold(scores);
  }

  // What must not count: keys after a row's token, and values behind the sequence's end.
  __device__ __forceinline__ void hide(int slot, int tile, float (&scores)[32]) const {
    const int first_key = tile * kKeys;
    if (first_key + kKeys - 1 > tile_.position) {
      hide_future(first_key, scores);
    }
    if (first_key + kKeys > keys_.end) {
      clear_behind(slot, keys_.end - first_key);
    }
  }

  __device__ __forceinline__ void hide_future(int first_key, float (&scores)[32]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int position = tile_.position + row_of(half) / grid_.tile_heads;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (first_key + n * 8 + thread_ % 4 * 2 + i > position) {
            scores[n * 4 + half * 2 + i] = negative_infinity();
          }
        }
      }
    }
  }

  // Rows from `first` on may hold anything, even NaN, which a weight of zero would not remove.
  __device__ void clear_behind(int slot, int first) const {
    const int count = (kKeys - first) * 8;  // of 16 bytes, in a panel
    uint8_t* rows = shared_ + kTiles + slot * kTileBytes + first * 128;
    for (int i = thread_; i < count * (kRank / 64); i += kGroupThreads) {
      *reinterpret_cast<uint4*>(rows + i / count * kPanelBytes + i % count * 16) = {0, 0, 0, 0};
    }
    publish_shared();
    index_ == 0 ? warpgroup_barrier(3) : warpgroup_barrier(4);
  }

  // Scores become weights; what was summed before has to be multiplied by `factor`.
  __device__ __forceinline__ void weigh(float (&scores)[32], uint32_t (&weights)[4][4],
                                        float (&factor)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = top_[half];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        most = fmaxf(most, fmaxf(scores[n * 4 + half * 2], scores[n * 4 + half * 2 + 1]));
      }
      most = fmaxf(most, shuffle_xor(most, 1));
      most = fmaxf(most, shuffle_xor(most, 2));
      factor[half] = fast_exp2((top_[half] - most) * scale_);
      top_[half] = most;
      const float offset = most * scale_;
      float sum = 0.0F;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[n * 4 + half * 2 + i];
          score = fast_exp2(score * scale_ - offset);
          sum += score;
        }
      }
      total_[half] = total_[half] * factor[half] + sum;
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        weights[step][j] = PairBf16::pack(scores[step * 8 + j * 2], scores[step * 8 + j * 2 + 1]);
      }
    }
  }

  __device__ __forceinline__ void hand_over(int slot, const uint32_t (&weights)[4][4],
                                            const float (&factor)[2]) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      control_->handed.weights[step][thread_] = {weights[step][0], weights[step][1],
                                                 weights[step][2], weights[step][3]};
    }
    control_->handed.state[thread_] = make_float4(top_[0], top_[1], factor[0], factor[1]);
    signal(&control_->weighed[slot]);
  }

  __device__ __forceinline__ void take_over(int slot, uint32_t phase, uint32_t (&weights)[4][4],
                                            float (&factor)[2]) {
    wait_barrier(&control_->weighed[slot], phase);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const uint4 from = control_->handed.weights[step][thread_];
      weights[step][0] = from.x;
      weights[step][1] = from.y;
      weights[step][2] = from.z;
      weights[step][3] = from.w;
    }
    const float4 state = control_->handed.state[thread_];
    top_[0] = state.x;
    top_[1] = state.y;
    factor[0] = state.z;
    factor[1] = state.w;
    total_[0] *= factor[0];
    total_[1] *= factor[1];
  }

  // Begins the products; products_done and release have to follow.
  __device__ __forceinline__ void sum_values(int slot, const uint32_t (&weights)[4][4],
                                             const float (&factor)[2]) {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
#pragma unroll
      for (int i = 0; i < 64; ++i) {
        out_[part][i] *= factor[i / 2 % 2];
      }
      hold(out_[part]);
    }
    const uint32_t values =
        shared_address(shared_) + kTiles + slot * kTileBytes + index_ * 4 * kPanelBytes;
    begin_products();
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        multiply_rows(out_[part], weights[step],
                      rows_along_n(values + part * 2 * kPanelBytes + step * 16 * 128, kPanelBytes));
      }
    }
    close_products();
  }

  __device__ __forceinline__ void release(int slot) {
    hold(out_[0]);
    hold(out_[1]);
    signal(&control_->empty[slot][index_]);
  }

  // total: of all weights of row_of(half).
  __device__ __forceinline__ void store(int half, float total) const {
    const int row = row_of(half);
    if (!valid(row)) {
      return;
    }
    const int64_t rows = args_.metadata.num_tokens * args_.shape.num_heads;
    const int64_t split_row = static_cast<int64_t>(blockIdx.z) * rows + step_row(row);
    if (grid_.splits > 1 && index_ == 0 && thread_ % 4 == 0) {
      float* state = args_.partials + grid_.splits * rows * kRank + split_row * 2;
      *reinterpret_cast<float2*>(state) =
          make_float2(total > 0.0F ? top_[half] * scale_ : negative_infinity(), total);
    }
    const int column = index_ * (kRank / 2) + thread_ % 4 * 2;
    uint16_t* out = args_.out + step_row(row) * kRank + column;
    float* sums = args_.partials + split_row * kRank + column;
    const float factor = total > 0.0F ? 1.0F / total : 0.0F;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
#pragma unroll
      for (int n = 0; n < 16; ++n) {
        const float a = out_[part][n * 4 + half * 2];
        const float b = out_[part][n * 4 + half * 2 + 1];
        if (grid_.splits == 1) {
          *reinterpret_cast<uint32_t*>(out + part * 128 + n * 8) =
              PairBf16::pack(a * factor, b * factor);
        } else if (total > 0.0F) {  // else nobody reads them
          *reinterpret_cast<float2*>(sums + part * 128 + n * 8) = make_float2(a, b);
        }
      }
    }
  }

  const MlaAttentionArgs& args_;
  const MlaGrid& grid_;
  const MlaTile& tile_;
  const Keys& keys_;
  uint8_t* shared_;
  Control* control_;
  int index_;
  int thread_;
  float scale_;
  float top_[2] = {kLowest, kLowest};  // largest scores of all tiles so far
  float total_[2] = {0.0F, 0.0F};      // this lane's part of its own tiles' weights
  float out_[2][64];
};

}  // namespace atom::gpu::sm90::latent
