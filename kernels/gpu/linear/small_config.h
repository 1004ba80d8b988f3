// The small-M product's types, sizes and shared memory, at compile time. To add a variant: a
// parameter here, what it changes in small_body.h, and its launch. C++20.
#pragma once

#include <type_traits>

#include "kernels/gpu/linear/weight_formats.h"

namespace atom::gpu {

// What a format is to either tile: its scales of a group, and 16-byte loads that a lane has under
// way.
template <class Format, bool kTurned>
struct FormatOf {
  using Group = typename Format::Group;
  static constexpr int kInFlight = Format::kInFlight;
  static constexpr float kOddFactor = 1.0F;
};
template <class Format>
struct FormatOf<Format, true> {
  using Group = typename Format::TurnedGroup;
  static constexpr int kInFlight = Format::kTurnedInFlight;
  static constexpr float kOddFactor = Format::kOddFactor;
};

template <class Format_, int kTokens_, int kTiles_, bool kSharedX_, bool kTiled_ = false,
          bool kSpareRegisters_ = false>
struct SmallLinearConfig {
  using Format = Format_;                   // of the weight: weight_formats.h
  static constexpr int kTokens = kTokens_;  // 8, or a multiple of 16
  static constexpr int kTiles = kTiles_;
  static constexpr bool kSharedX = kSharedX_;
  // W is stored as tiles of ProductTile::kRows rows x 64 bytes, each contiguous, along k first: the
  // order in which it is read. No product is stored so; the benchmark measures what it would give.
  static constexpr bool kTiled = kTiled_;
  // No weights are held in registers: more of everything else can be in flight.
  static constexpr bool kSpareRegisters = kSpareRegisters_;
  static constexpr int kStageTokens = kSpareRegisters && kTokens == 8 ? 4 : 1;  // normed at a time
  // Narrow weights are multiplied as f16 (e4m3: one instruction a pair, where bf16 takes five): x
  // is then staged as f16, each token times a power of two that brings its largest value near
  // f16's, which loses nothing of bf16 but values 2^-30 below the largest.
  static constexpr bool kF16 = Format::kTakesF16 && kSharedX && ATOM_GPU_CUDA != 0;

  static constexpr bool kTurned = Format::kTurns && kF16 && kTokens == 8 && kTiles == 2;
  using Tile = std::conditional_t<kTurned, TurnedTile, ProductTile>;
  using Group = typename FormatOf<Format, kTurned>::Group;
  static constexpr float kOddFactor = FormatOf<Format, kTurned>::kOddFactor;

  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * kWarpSize;
  static constexpr int kGroupValues = 128;                  // of k; fixes the order of sums
  static constexpr int kChunkValues = 512 / Format::kBits;  // 64 bytes of a row: 16 a lane
  static constexpr int kPieces = 16 / Format::kBits;        // of eight values, in 16 bytes
  static constexpr int kChunks = kGroupValues / kChunkValues;
  static constexpr int kLoads = kTiles * kChunks;  // 16-byte loads of a group
  // Groups in flight: 16 loads, fewer where x needs the registers.
  static constexpr int kForX = kTokens > 16 ? 8 : kTokens == 16 && !kSharedX ? 4 + 8 / kTiles : 16;
  static constexpr int kMostInFlight = FormatOf<Format, kTurned>::kInFlight;
  static constexpr int kInFlight = kTurned || kMostInFlight < kForX ? kMostInFlight : kForX;
  static constexpr int kDepth = kInFlight / kLoads > 1 ? kInFlight / kLoads : 2;
  static constexpr int kBlocksPerMultiprocessor = kTokens > 16 ? 1 : 2;
  static constexpr int kTokenTiles = (kTokens + Tile::kTokens - 1) / Tile::kTokens;
  static constexpr int kSums =
      kTokens == 8 && Tile::kTokenLoads == 2 ? 2 : Tile::kSums * kTokenTiles;
  static constexpr int kPassRows = kTiles * Tile::kRows;
  static constexpr int kPartials = kTiles * kSums * kWarpSize;  // floats of a warp
  static constexpr int kPartialBytes = 2 * kWarps * kPartials * 4;
  static constexpr int kRowPadding = 64;           // bytes between rows of x: no bank conflicts
  static constexpr int kNormSquares = kWarps * 8;  // floats
  static constexpr int kMaxima = kF16 ? kWarps * kTokens : 0;  // words

  // x is filled up with zeros to whole groups where the product reads those.
  static __host__ __device__ constexpr int x_values(int in_features) {
    return kTurned ? (in_features + kGroupValues - 1) / kGroupValues * kGroupValues : in_features;
  }
  static constexpr int64_t shared_bytes(int64_t num_tokens, int64_t in_features) {
    const int64_t values = x_values(static_cast<int>(in_features));
    const int64_t x = kSharedX ? num_tokens * (values * 2 + kRowPadding) : 0;
    return kPartialBytes + (kNormSquares + kMaxima) * 4 + x;
  }
};

// All threads of a block.
struct BlockBarrier {
  static __device__ __forceinline__ void wait() { __syncthreads(); }
};

// `top` holds the largest magnitudes of the words' halves so far: those of bf16 order as their bits
// do.
template <class C>
__device__ __forceinline__ void raise([[maybe_unused]] uint32_t& top,
                                      [[maybe_unused]] const Vec16& x) {
#if ATOM_GPU_CUDA
  if constexpr (C::kF16) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      top = __vmaxu2(top, x.word[i] & 0x7fff7fffU);
    }
  }
#endif
}

}  // namespace atom::gpu
