// The small-M product: a block streams rows of W once and keeps 64 KB of loads in flight. Its warps
// split k: warp w takes every kWarps-th group of kGroupValues values of a row; their partial sums
// meet in shared memory, in the order of warps, once per pass of kTiles row tiles, with one
// barrier. Weights are constant, so a block's first loads are issued before it waits for the kernel
// before it: with chained launches the next product's weights are on their way while this one ends.
//
// Told as: Config (small_config.h), prefetch (before the dependency), stage_x (after
// it: small_x.h), run (the stream), finish (sums and epilogue). Barrier contract: every thread of
// the block calls each of these; stage_x holds one barrier or two, finish one a pass. Buffers of
// partial sums alternate by pass: a thread that writes pass p + 2 has passed the barrier of p + 1,
// which the readers of p reach after reading.
//
// To use it elsewhere (a persistent step): the same class with another row range and epilogue.
// C++20.
#pragma once

#include "kernels/gpu/linear/small_x.h"
#include "kernels/gpu/primitives/launch.h"

namespace atom::gpu {

// Barrier: of the threads that hold this class.
template <class C, class Barrier = BlockBarrier>
class SmallLinear {
 public:
  static constexpr int kRoundValues = C::kWarps * C::kGroupValues;

  // This block's passes are first, first + stride, ... below num_passes.
  __device__ SmallLinear(const LinearArgs& args, uint8_t* shared, int first, int stride,
                         int num_passes)
      : args_(args),
        partials_(reinterpret_cast<float*>(shared)),
        x_(args, shared + C::kPartialBytes),
        stride_(stride),
        lane_(static_cast<int>(threadIdx.x) % kWarpSize),
        warp_(static_cast<int>(threadIdx.x) / kWarpSize),
        row_bytes_(row_size(static_cast<int>(args.in_features))),
        rounds_((static_cast<int>(args.in_features) + kRoundValues - 1) / kRoundValues),
        pair_(args.epilogue == LinearEpilogue::kSiluMul),
        policy_(streaming_policy()),
        load_pass_(first),
        pass_(first) {
    const int groups =
        first < num_passes ? (num_passes - first + stride - 1) / stride * rounds_ : 0;
    to_load_ = groups;
    to_multiply_ = groups;
    point_rows();
  }

  // Before wait_previous: constant data only.
  __device__ __forceinline__ void prefetch() {
#pragma unroll
    for (int d = 0; d < C::kDepth; ++d) {
      load_group(weights_[d], groups_[d]);
    }
  }

  // After wait_previous: x into shared memory.
  __device__ __forceinline__ void stage_x() { x_.stage(); }

  __device__ __forceinline__ void run() {
    begin_pass();
    int round = 0;
    while (to_multiply_ > 0) {
#pragma unroll
      for (int d = 0; d < C::kDepth; ++d) {
        if (to_multiply_ > 0) {
          multiply(weights_[d], groups_[d], round);
          load_group(weights_[d], groups_[d]);
          --to_multiply_;
          if (++round == rounds_) {
            round = 0;
            finish();
            begin_pass();
          }
        }
      }
    }
  }

  // As run(), with weights from elsewhere: take(piece of a group, round) fills this lane's piece.
  // Not for formats whose groups have scales.
  template <class Take>
  __device__ __forceinline__ void run_from(const Take& take) {
    begin_pass();
    int round = 0;
    for (; to_multiply_ > 0; --to_multiply_) {
      Vec16 weights[C::kLoads];
      take(weights, round);
      const Group none[C::kTiles]{};
      multiply(weights, none, round);
      if (++round == rounds_) {
        round = 0;
        finish();
        begin_pass();
      }
    }
  }

  __device__ __forceinline__ int rounds() const { return rounds_; }
  __device__ __forceinline__ int row_bytes() const { return row_bytes_; }
  // Tiles of a pass follow each other, or alternate between rows of gate and of up.
  __device__ __forceinline__ int first_row(int pass, int tile) const {
    if (pair_) {
      return pass * (C::kPassRows / 2) + tile / 2 * C::Tile::kRows +
             tile % 2 * static_cast<int>(args_.out_features / 2);
    }
    return pass * C::kPassRows + tile * C::Tile::kRows;
  }
  __device__ __forceinline__ int row_limit(int tile) const {
    return static_cast<int>(pair_ && tile % 2 == 0 ? args_.out_features / 2 : args_.out_features);
  }

  // Byte of a row where this lane's piece of a chunk lies.
  __device__ __forceinline__ int piece_offset(int round, int chunk) const {
    return ((round * C::kWarps + warp_) * C::kChunks + chunk) * 64 + C::Tile::quarter(lane_) * 16;
  }

 protected:
  using Format = typename C::Format;
  using Group = typename C::Group;

  static __device__ __forceinline__ int row_size(int in_features) {
    if constexpr (Format::kInterleaved) {
      return (in_features + C::kGroupValues - 1) / C::kGroupValues * (C::kGroupValues / 2);
    } else {
      return in_features * Format::kBits / 8;
    }
  }

  // A thread finishes at most one element of a pass, and asks early for what that needs.
  static constexpr bool kOneElement = C::kSpareRegisters && C::kPartials <= C::kThreads;

  // Rows past the end read the last one; their results are not stored.
  __device__ __forceinline__ void point_rows() {
#pragma unroll
    for (int r = 0; r < C::kTiles; ++r) {
      const int row = min(first_row(load_pass_, r) + C::Tile::row(lane_), row_limit(r) - 1);
      const int within = C::kTiled ? row % C::Tile::kRows : 0;
      rows_[r] =
          static_cast<uint32_t>(row - within) * static_cast<uint32_t>(row_bytes_ / 16) + within * 4;
    }
  }

  // The next group of this block's stream, and its scales.
  __device__ __forceinline__ void load_group(Vec16 (&to)[C::kLoads], Group (&scales)[C::kTiles]) {
    if (to_load_ == 0) {
      return;
    }
#pragma unroll
    for (int u = 0; u < C::kChunks; ++u) {
      const int offset = piece_offset(load_round_, u);
      const int address = C::kTiled ? (offset & ~63) * C::Tile::kRows + (offset & 63) : offset;
#pragma unroll
      for (int r = 0; r < C::kTiles; ++r) {
        if (offset < row_bytes_) {
          to[u * C::kTiles + r] = load_stream16(
              static_cast<const Vec16*>(args_.weight) + (rows_[r] + address / 16), policy_);
        } else {
          to[u * C::kTiles + r] = Vec16{};
        }
      }
    }
    if constexpr (Format::kScaleValues > 0) {
      const int group = load_round_ * C::kWarps + warp_;
#pragma unroll
      for (int r = 0; r < C::kTiles; ++r) {
        scales[r] = Group{};
        if (group * C::kGroupValues < static_cast<int>(args_.in_features)) {
          scales[r] =
              Format::load_group(args_, {first_row(load_pass_, r), row_limit(r)}, group, lane_);
        }
      }
    }
    --to_load_;
    if (++load_round_ == rounds_) {
      load_round_ = 0;
      load_pass_ += stride_;
      point_rows();
    }
  }

  // Where this lane's values of a chunk begin in x; those of its pieces are kPieceStep apart.
  static constexpr int kPieceStep = Format::kInterleaved ? 32 : 8;
  __device__ __forceinline__ int value_of(int round, int chunk) const {
    if constexpr (Format::kInterleaved) {
      return (round * C::kWarps + warp_) * C::kGroupValues + C::Tile::quarter(lane_) * 8;
    } else {
      // Weights beyond the row are zero; x is read from where it is defined.
      const int offset = piece_offset(round, chunk);
      return offset < row_bytes_ ? offset * 8 / Format::kBits : 0;
    }
  }

  __device__ __forceinline__ void multiply(const Vec16 (&weights)[C::kLoads],
                                           const Group (&scales)[C::kTiles], int round) {
    if constexpr (Format::kScaleValues == 0) {
      return add_products(weights, scales, round, sums_);
    }
    float parts[C::kTiles][C::kTokenTiles][4] = {};
    add_products(weights, scales, round, parts);
    if constexpr (Format::kScaleValues == C::kGroupValues) {
      add_scaled(parts, scales, 0);
    }
  }

  __device__ __forceinline__ void add_products(const Vec16 (&weights)[C::kLoads],
                                               const Group (&scales)[C::kTiles], int round,
                                               float (&sums)[C::kTiles][C::kTokenTiles][4]) {
    Vec16 x[C::kTokenTiles][C::Tile::kTokenLoads];
#pragma unroll
    for (int u = 0; u < C::kChunks; ++u) {
      const int k = value_of(round, u);
#pragma unroll
      for (int p = 0; p < C::kPieces; ++p) {
        if (Format::kInterleaved &&
            (round * C::kWarps + warp_) * C::kGroupValues + p * 32 >= args_.in_features) {
          continue;  // past the end of the row, for the whole warp
        }
        x_.load(k + p * kPieceStep, x);
#pragma unroll
        for (int r = 0; r < C::kTiles; ++r) {
          const Vec16 w = Format::template piece<C::kF16>(weights[u * C::kTiles + r], p, scales[r]);
#pragma unroll
          for (int t = 0; t < C::kTokenTiles; ++t) {
            ProductTile::template multiply_add<C::kF16>(sums[r][t], x[t], w);
          }
        }
        if constexpr (Format::kScaleValues == 32) {
          add_scaled(sums, scales, p);
        }
      }
    }
  }

  // The sums of a group, or of its 32 values p, to those of the row; none are left.
  __device__ __forceinline__ void add_scaled(float (&parts)[C::kTiles][C::kTokenTiles][4],
                                             const Group (&scales)[C::kTiles], int p) {
#pragma unroll
    for (int r = 0; r < C::kTiles; ++r) {
#pragma unroll
      for (int t = 0; t < C::kTokenTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sums_[r][t][i] += Format::template scale<C::kF16>(scales[r], p, i) * parts[r][t][i];
          parts[r][t][i] = 0.0F;
        }
      }
    }
  }

  // Sums of a pass begin; what its epilogue adds and scales by is asked for.
  __device__ __forceinline__ void begin_pass() {
    if constexpr (kOneElement) {
      int token = 0;
      int row = 0;
      if (locate(static_cast<int>(threadIdx.x), token, row)) {
        if (args_.epilogue == LinearEpilogue::kAddResidual) {
          old_ = static_cast<const float*>(args_.out)[token * args_.out_features + row];
        }
        if constexpr (Format::kRowScales) {
          scale_ = args_.scales[row];
        }
      }
    }
#pragma unroll
    for (int r = 0; r < C::kTiles; ++r) {
#pragma unroll
      for (int t = 0; t < C::kTokenTiles; ++t) {
#pragma unroll
        for (int i = 0; i < C::Tile::kSums; ++i) {
          sums_[r][t][i] = 0.0F;
        }
      }
    }
  }

  // The warps' partial sums of a pass to its results.
  __device__ __forceinline__ void finish() {
    float* buffer = partials_ + parity_ * C::kWarps * C::kPartials;
#pragma unroll
    for (int r = 0; r < C::kTiles; ++r) {
#pragma unroll
      for (int i = 0; i < C::kSums; ++i) {
        buffer[warp_ * C::kPartials + (r * C::kSums + i) * kWarpSize + lane_] =
            sums_[r][i / C::Tile::kSums][i % C::Tile::kSums];
      }
    }
    parity_ ^= 1;
    Barrier::wait();
    for (int e = static_cast<int>(threadIdx.x); e < C::kPartials; e += C::kThreads) {
      int token = 0;
      int row = 0;
      if (locate(e, token, row)) {
        store(buffer, e, token, row);
      }
    }
    pass_ += stride_;
  }

  // Which result of the pass element e of the sums is; false where it is none that is stored.
  __device__ __forceinline__ bool locate(int e, int& token, int& row) const {
    const int lane = e % kWarpSize;
    const int i = e / kWarpSize % C::kSums;
    const int tile = e / kWarpSize / C::kSums;
    const int sum = i % C::Tile::kSums;
    token = i / C::Tile::kSums * C::Tile::kTokens + C::Tile::sum_token(lane, sum);
    row = first_row(pass_, tile) + C::Tile::sum_row(lane, sum);
    return tile < C::kTiles && token < args_.num_tokens && row < row_limit(tile) &&
           !(pair_ && tile % 2 == 1);
  }

  __device__ __forceinline__ float result(const float* buffer, int element, int token, int row,
                                          [[maybe_unused]] bool other) const {
    float y = 0.0F;
#pragma unroll
    for (int w = 0; w < C::kWarps; ++w) {
      y += buffer[w * C::kPartials + element];
    }
    if constexpr (Format::kRowScales) {
      y *= kOneElement && !other ? scale_ : args_.scales[row];
    }
    if constexpr (C::kF16) {
      y *= bits_to_float((254U - x_.scale_exponent(token)) << 23);
    }
    if constexpr (C::kTurned) {
      y *= Format::kTurnedFactor;
    }
    if (args_.norm_input != nullptr) {
      float squares = 0.0F;
      for (int w = 0; w < C::kWarps; ++w) {
        squares += x_.squares(w, token);
      }
      y *= 1.0F / sqrtf(squares / static_cast<float>(args_.in_features) + args_.norm_eps);
    }
    return args_.bias == nullptr ? y : y + args_.bias[row];
  }

  __device__ __forceinline__ void store(const float* buffer, int element, int token,
                                        int row) const {
    float y = result(buffer, element, token, row, false);
    int64_t width = args_.out_features;
    if (pair_) {
      width /= 2;
      const float up = result(buffer, element + C::kSums * kWarpSize, token,
                              row + static_cast<int>(args_.out_features / 2), true);
      y = y / (1.0F + expf(-y)) * up;
    }
    const int64_t at = token * width + row;
    if (args_.epilogue == LinearEpilogue::kAddResidual) {
      float* out = static_cast<float*>(args_.out) + at;
      *out = (kOneElement ? old_ : *out) + y;
    } else if (args_.out_dtype == DType::kF32) {
      static_cast<float*>(args_.out)[at] = y;
    } else {
      static_cast<uint16_t*>(args_.out)[at] = to_bf16(y);
    }
  }

  const LinearArgs& args_;
  float* const partials_;  // [2, kWarps, kPartials]
  SmallLinearX<C, Barrier> x_;
  const int stride_;
  const int lane_;
  const int warp_;
  const int row_bytes_;
  const int rounds_;  // groups of a warp in a row
  const bool pair_;
  const uint64_t policy_;

  Vec16 weights_[C::kDepth][C::kLoads];
  Group groups_[C::kDepth][C::kTiles];
  uint32_t rows_[C::kTiles];  // where the rows begin, in pieces of 16 bytes
  GroupScales scales_;        // of group 0, where the product is turned
  uint32_t scale_rows_[C::kTiles] = {};
  float sums_[C::kTiles][C::kTokenTiles][C::Tile::kSums];
  float old_ = 0.0F;    // of this thread's element: what out holds
  float scale_ = 1.0F;  // of its row
  int load_pass_;
  int load_round_ = 0;
  int pass_;
  int parity_ = 0;
  int to_load_ = 0;
  int to_multiply_ = 0;
};

}  // namespace atom::gpu
