// A small product per head, as a warp computes it: kTokenTiles x 16 tokens x kRows rows straight
// from global memory; 16-byte pieces of row-major rows are the fragments (primitives/mma.h). The
// first weights may be asked for before what the kernel before this one writes is there. Device
// code, C++20.
#pragma once

#include "kernels/gpu/mla.h"
#include "kernels/gpu/primitives/mma.h"

namespace atom::gpu {

inline constexpr int kHeadsWarps = 4;  // of a block, a tile each

// kAhead: steps of 32 values whose weights are on their way together. kAligned: rows begin and end
// at 16 bytes.
template <int kTokenTiles, int kAhead, bool kAligned>
class HeadsTile {
 public:
  using Tile = ProductTile;
  static constexpr int kBlockRows = kHeadsWarps * Tile::kRows;
  static constexpr int kTokens = kTokenTiles * Tile::kTokens;

  // Blocks (x, y) take rows and tokens.
  __device__ __forceinline__ HeadsTile(const LinearHeadsArgs& args, int64_t head)
      : args_(args),
        head_(head),
        lane_(static_cast<int>(threadIdx.x) % kWarpSize),
        first_row_((static_cast<int>(blockIdx.x) * kHeadsWarps +
                    static_cast<int>(threadIdx.x) / kWarpSize) *
                   Tile::kRows),
        first_token_(int64_t{blockIdx.y} * kTokens),
        row_valid_(first_row_ + Tile::row(lane_) < args.out_features),
        weight_(args.weight +
                (head * args.row_stride + first_row_ + Tile::row(lane_)) * args.in_features) {}

  __device__ __forceinline__ void prefetch() { load_weights(0); }

  __device__ __forceinline__ void run() {
    if (first_row_ >= args_.out_features) {
      return;
    }
    const uint16_t* x[kTokenTiles][Tile::kTokenLoads];
    bool token_valid[kTokenTiles][Tile::kTokenLoads];
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
      for (int load = 0; load < Tile::kTokenLoads; ++load) {
        const int64_t token = first_token_ + tile * Tile::kTokens + Tile::token(lane_, load);
        token_valid[tile][load] = token < args_.num_tokens;
        x[tile][load] = args_.x + (token * args_.num_heads + head_) * args_.x_stride;
      }
    }
    const Vec16 zeros{};
    for (int begin = 0; begin < args_.in_features; begin += kAhead * kStep) {
      if (begin > 0) {
        load_weights(begin);
      }
#pragma unroll
      for (int step = 0; step < kAhead; ++step) {
        const int k = begin + step * kStep + Tile::quarter(lane_) * 8;
#pragma unroll
        for (int tile = 0; tile < kTokenTiles; ++tile) {
          Vec16 pieces[Tile::kTokenLoads];
#pragma unroll
          for (int load = 0; load < Tile::kTokenLoads; ++load) {
            pieces[load] = token_valid[tile][load] ? load_values(x[tile][load], k) : zeros;
          }
          Tile::multiply_add(sums_[tile], pieces, weights_[step]);
        }
      }
    }
    store();
  }

 private:
  static constexpr int kStep = 32;

  // Values [at, at + 8) of a row, zeros from in_features on.
  __device__ __forceinline__ Vec16 load_values(const uint16_t* row, int at) const {
    Vec16 values{};
    if constexpr (kAligned) {
      if (at < args_.in_features) {
        values = load16(row + at);
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t low = at + 2 * i < args_.in_features ? row[at + 2 * i] : 0U;
        const uint32_t high = at + 2 * i + 1 < args_.in_features ? row[at + 2 * i + 1] : 0U;
        values.word[i] = low | (high << 16);
      }
    }
    return values;
  }

  __device__ __forceinline__ void load_weights(int begin) {
    const Vec16 zeros{};
#pragma unroll
    for (int step = 0; step < kAhead; ++step) {
      const int k = begin + step * kStep + Tile::quarter(lane_) * 8;
      weights_[step] = row_valid_ ? load_values(weight_, k) : zeros;
    }
  }

  __device__ __forceinline__ void store() const {
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t token = first_token_ + tile * Tile::kTokens + Tile::sum_token(lane_, i);
        const int row = first_row_ + Tile::sum_row(lane_, i);
        if (token < args_.num_tokens && row < args_.out_features) {
          args_.out[(token * args_.num_heads + head_) * args_.out_stride + row] =
              to_bf16(sums_[tile][i]);
        }
      }
    }
  }

  const LinearHeadsArgs& args_;
  const int64_t head_;
  const int lane_;
  const int first_row_;
  const int64_t first_token_;
  const bool row_valid_;
  const uint16_t* weight_;
  Vec16 weights_[kAhead];
  float sums_[kTokenTiles][4] = {};
};

// Grid of one head's product.
template <class Tile>
dim3 heads_grid(const LinearHeadsArgs& args, int64_t slices) {
  return {static_cast<unsigned>((args.out_features + Tile::kBlockRows - 1) / Tile::kBlockRows),
          static_cast<unsigned>((args.num_tokens + Tile::kTokens - 1) / Tile::kTokens),
          static_cast<unsigned>(slices)};
}

// Whether rows of weight and x begin at 16 bytes.
inline bool heads_are_aligned(const LinearHeadsArgs& args) {
  return args.in_features % 8 == 0 && args.x_stride % 8 == 0;
}

}  // namespace atom::gpu
