// The small-M product of nibbles (weight_formats.h: kTurns), for eight tokens or fewer: what bounds
// it is instructions, not memory, so that a warp spends as few as it can on 16 bytes of weights.
// SmallLinear's split of k, sums and epilogue; here are its stream of weights, in chunks of kDepth
// groups with one address each, and the products, which take the bits of nibbles as they are
// (TurnedTile). Prefetch, stage_x and run are called as SmallLinear's. CUDA only. C++20.
#pragma once

#include "kernels/gpu/linear/small_body.h"

namespace atom::gpu {

template <class C, class Barrier = BlockBarrier>
class TurnedLinear : public SmallLinear<C, Barrier> {
  using Base = SmallLinear<C, Barrier>;
  using Format = typename C::Format;
  using Group = typename C::Group;

 public:
  // As SmallLinear's: passes first, first + stride, ... below num_passes.
  __device__ TurnedLinear(const LinearArgs& args, uint8_t* shared, int first, int stride,
                          int num_passes)
      : Base(args, shared, first, stride, num_passes),
        scales_(Format::scales_of(args, 0)),
        num_groups_((static_cast<int>(args.in_features) + C::kGroupValues - 1) / C::kGroupValues),
        num_passes_(num_passes),
        load_groups_(first < num_passes ? num_groups_ : 0) {
    point_at(first);
  }

  __device__ __forceinline__ void prefetch() { load_chunk(0); }

  __device__ __forceinline__ void run() {
    for (int pass = this->pass_; pass < num_passes_; pass += this->stride_) {
      this->begin_pass();
#pragma unroll 1
      for (int round = 0; round < this->rounds_; round += C::kDepth) {
        int next = round + C::kDepth;
        if (next >= this->rounds_) {
          next = 0;
          load_groups_ = pass + this->stride_ < num_passes_ ? num_groups_ : 0;
          point_at(pass + this->stride_);
        }
        step(round, next);
      }
      this->finish();
    }
  }

 private:
  // Rows past the end read the last one; their results are not stored.
  __device__ __forceinline__ void point_at(int pass) {
#pragma unroll
    for (int r = 0; r < C::kTiles; ++r) {
      const int row =
          min(this->first_row(pass, r) + C::Tile::row(this->lane_), this->row_limit(r) - 1);
      weight_rows_[r] = static_cast<uint32_t>(max(row, 0));
    }
  }

  // Multiplies the groups that are here, of rounds from `round` on, and asks for those from `next`
  // on in their place.
  __device__ __forceinline__ void step(int round, int next) {
    const Chunk chunk = chunk_at(next);
#pragma unroll
    for (int d = 0; d < C::kDepth; ++d) {
      multiply(weights_[d], groups_[d], (round + d) * C::kWarps + this->warp_);
      load(chunk, d);
    }
  }

  struct Chunk {
    const uint8_t* weights[C::kTiles];
    uint32_t scales[C::kTiles];  // numbers of the first group's
    int group;
  };
  __device__ __forceinline__ Chunk chunk_at(int round) const {
    Chunk chunk;
    chunk.group = round * C::kWarps + this->warp_;
    const auto row_bytes = static_cast<uint32_t>(this->row_bytes_);
#pragma unroll
    for (int r = 0; r < C::kTiles; ++r) {
      chunk.weights[r] = static_cast<const uint8_t*>(this->args_.weight) +
                         static_cast<uint64_t>(weight_rows_[r]) * row_bytes +
                         (chunk.group * kGroupBytes + C::Tile::quarter(this->lane_) * 16);
      chunk.scales[r] =
          static_cast<uint32_t>(chunk.group) * static_cast<uint32_t>(this->args_.out_features) +
          weight_rows_[r];
    }
    return chunk;
  }
  __device__ __forceinline__ void load_chunk(int round) {
    const Chunk chunk = chunk_at(round);
#pragma unroll
    for (int d = 0; d < C::kDepth; ++d) {
      load(chunk, d);
    }
  }
  __device__ __forceinline__ void load(const Chunk& chunk, int d) {
    if (chunk.group + d * C::kWarps >= load_groups_) {
      return;  // for the whole warp
    }
    const auto step =
        static_cast<uint32_t>(C::kWarps) * static_cast<uint32_t>(this->args_.out_features);
#pragma unroll
    for (int r = 0; r < C::kTiles; ++r) {
      weights_[d][r] = load_stream16(
          reinterpret_cast<const Vec16*>(chunk.weights[r] + d * C::kWarps * kGroupBytes),
          this->policy_);
      groups_[d][r] =
          Format::load_turned(scales_, chunk.scales[r] + static_cast<uint32_t>(d) * step);
    }
  }

  __device__ __forceinline__ void multiply(const Vec16 (&weights)[C::kTiles],
                                           const Group (&groups)[C::kTiles], int group) {
    if (group >= num_groups_) {
      return;  // for the whole warp
    }
    Sums sums = {};
#pragma unroll
    for (int p = 0; p < C::kPieces; ++p) {
      Vec16 x[1][1];
      this->x_.load(group * C::kGroupValues + p * 32 + C::Tile::quarter(this->lane_) * 8, x);
#pragma unroll
      for (int r = 0; r < C::kTiles; r += 2) {
        C::Tile::multiply_add(sums.tiles[r / 2], x[0][0], Format::turned(weights[r], p),
                              Format::turned(weights[r + 1], p));
      }
      if constexpr (Format::kCentred) {
        C::Tile::multiply_add(sums.x, x[0][0], Format::turned_ones(), Format::turned_ones());
      }
      if constexpr (Format::kScaleValues == 32) {
        add(sums, groups, p);
        sums = {};
      }
    }
    if constexpr (Format::kScaleValues == C::kGroupValues) {
      add(sums, groups, 0);
    }
  }

  // Of values that share a scale: of two tiles each, and of x alone.
  struct Sums {
    float tiles[C::kTiles / 2][4];
    float x[4];
  };
  __device__ __forceinline__ void add(const Sums& sums, const Group (&groups)[C::kTiles], int p) {
#pragma unroll
    for (int r = 0; r < C::kTiles; ++r) {
      const float scale = Format::turned_scale(groups[r], p);
      const float zero = Format::turned_zero(groups[r], p);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float sum = sums.tiles[r / 2][r % 2 * 2 + i];
        this->sums_[r][0][i] += scale * (Format::kCentred ? sum - zero * sums.x[i] : sum);
      }
    }
  }

  static constexpr int kGroupBytes = C::kGroupValues / 2;

  const GroupScales scales_;  // of group 0
  const int num_groups_;
  const int num_passes_;
  int load_groups_;  // groups of the pass that is loaded: none behind the last
  uint32_t weight_rows_[C::kTiles];
  Vec16 weights_[C::kDepth][C::kTiles];
  Group groups_[C::kDepth][C::kTiles];
};

}  // namespace atom::gpu
