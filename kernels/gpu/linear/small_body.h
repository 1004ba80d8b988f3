// The small-M product: a block streams rows of W once and keeps 64 KB of loads in flight. Its warps
// split k: warp w takes every kWarps-th group of kGroupValues values of a row; their partial sums
// meet in shared memory, in the order of warps, once per pass of kTiles row tiles, with one
// barrier. Weights are constant, so a block's first loads are issued before it waits for the kernel
// before it: with chained launches the next product's weights are on their way while this one ends.
//
// Told as: Config (small_config.h), prefetch (before the dependency), stage_x (after
// it), run (the stream), finish (sums and epilogue). Barrier contract: every thread of the block
// calls each of these; stage_x holds one barrier, finish one a pass. Buffers of partial
// sums alternate by pass: a thread that writes pass p + 2 has passed the barrier of p + 1, which
// the readers of p reach after reading.
//
// To use it elsewhere (a persistent step): the same class with another row range and epilogue.
// C++20.
#pragma once

#include "kernels/gpu/linear/small_config.h"
#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/vector_ops/row_io.h"

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
        squares_(partials_ + 2 * C::kWarps * C::kPartials),
        maxima_(reinterpret_cast<uint32_t*>(squares_ + C::kNormSquares)),
        shared_x_(shared + C::kPartialBytes + (C::kNormSquares + C::kMaxima) * 4),
        stride_(stride),
        lane_(static_cast<int>(threadIdx.x) % kWarpSize),
        warp_(static_cast<int>(threadIdx.x) / kWarpSize),
        row_bytes_(static_cast<int>(args.in_features) * (C::kE4M3 ? 1 : 2)),
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
      load_group(weights_[d]);
    }
  }

  // After wait_previous: x, or the norm's input times its weight, into shared memory.
  __device__ __forceinline__ void stage_x() {
    if constexpr (C::kSharedX) {
      if (args_.norm_input != nullptr) {
        stage_normed();
      } else if constexpr (C::kF16) {
        stage_plain();
      } else {
        const int pieces = static_cast<int>(args_.in_features) / 8;
        const int count = static_cast<int>(args_.num_tokens) * pieces;
#pragma unroll 4
        for (int i = static_cast<int>(threadIdx.x); i < count; i += C::kThreads) {
          const int m = i / pieces;
          store16(x_row(m) + (i - m * pieces) * 16, load16(args_.x + i * 8));
        }
      }
      Barrier::wait();
      if constexpr (C::kF16) {
        scale_x();
        Barrier::wait();
      }
    }
  }

  __device__ __forceinline__ void run() {
    begin_pass();
    int round = 0;
    while (to_multiply_ > 0) {
#pragma unroll
      for (int d = 0; d < C::kDepth; ++d) {
        if (to_multiply_ > 0) {
          multiply(weights_[d], round);
          load_group(weights_[d]);
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
  template <class Take>
  __device__ __forceinline__ void run_from(const Take& take) {
    begin_pass();
    int round = 0;
    for (; to_multiply_ > 0; --to_multiply_) {
      Vec16 weights[C::kLoads];
      take(weights, round);
      multiply(weights, round);
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
      return pass * (C::kPassRows / 2) + tile / 2 * ProductTile::kRows +
             tile % 2 * static_cast<int>(args_.out_features / 2);
    }
    return pass * C::kPassRows + tile * ProductTile::kRows;
  }
  __device__ __forceinline__ int row_limit(int tile) const {
    return static_cast<int>(pair_ && tile % 2 == 0 ? args_.out_features / 2 : args_.out_features);
  }

  // Byte of a row where this lane's piece of a chunk lies.
  __device__ __forceinline__ int piece_offset(int round, int chunk) const {
    return ((round * C::kWarps + warp_) * C::kChunks + chunk) * 64 +
           ProductTile::quarter(lane_) * 16;
  }

 private:
  // A thread finishes at most one element of a pass, and asks early for what that needs.
  static constexpr bool kOneElement = C::kSpareRegisters && C::kPartials <= C::kThreads;

  // Rows past the end read the last one; their results are not stored.
  __device__ __forceinline__ void point_rows() {
#pragma unroll
    for (int r = 0; r < C::kTiles; ++r) {
      const int row = min(first_row(load_pass_, r) + ProductTile::row(lane_), row_limit(r) - 1);
      const int within = C::kTiled ? row % ProductTile::kRows : 0;
      rows_[r] =
          static_cast<uint32_t>(row - within) * static_cast<uint32_t>(row_bytes_ / 16) + within * 4;
    }
  }

  // The next group of this block's stream.
  __device__ __forceinline__ void load_group(Vec16 (&to)[C::kLoads]) {
    if (to_load_ == 0) {
      return;
    }
#pragma unroll
    for (int u = 0; u < C::kChunks; ++u) {
      const int offset = piece_offset(load_round_, u);
      const int address = C::kTiled ? (offset & ~63) * ProductTile::kRows + (offset & 63) : offset;
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
    --to_load_;
    if (++load_round_ == rounds_) {
      load_round_ = 0;
      load_pass_ += stride_;
      point_rows();
    }
  }

  __device__ __forceinline__ uint8_t* x_row(int token) const {
    return shared_x_ + token * (static_cast<int>(args_.in_features) * 2 + C::kRowPadding);
  }

  // Loads of several tokens are in flight at once; a token's squares are summed in the same order
  // whatever their number.
  __device__ __forceinline__ void stage_normed() {
    const int pieces = static_cast<int>(args_.in_features) / 8;
    const int num_tokens = static_cast<int>(args_.num_tokens);
    for (int first = 0; first < num_tokens; first += C::kStageTokens) {
      float squares[C::kStageTokens] = {};
      uint32_t tops[C::kStageTokens] = {};
#pragma unroll 1
      for (int i = static_cast<int>(threadIdx.x); i < pieces; i += C::kThreads) {
        float values[C::kStageTokens][8];
        float weight[8];
#pragma unroll
        for (int b = 0; b < C::kStageTokens; ++b) {
          const int m = min(first + b, num_tokens - 1);
          load8(args_.norm_input + m * args_.in_features + i * 8, values[b]);
        }
        load8(args_.norm_weight + i * 8, weight);
#pragma unroll
        for (int b = 0; b < C::kStageTokens; ++b) {
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            squares[b] += values[b][j] * values[b][j];
            values[b][j] *= weight[j];
          }
          const Vec16 x = pack_bf16(values[b]);
          raise<C>(tops[b], x);
          if (first + b < num_tokens) {
            store16(x_row(first + b) + i * 16, x);
          }
        }
      }
#pragma unroll
      for (int b = 0; b < C::kStageTokens; ++b) {
        const float sum = reduce_lanes<SumOf>(squares[b]);
        if (lane_ == 0 && first + b < num_tokens) {
          squares_[warp_ * 8 + first + b] = sum;
        }
        keep_maximum(first + b, tops[b]);
      }
    }
  }

  // x as it is, and the largest value of each token.
  __device__ __forceinline__ void stage_plain() {
    constexpr int kTogether = 4;
    const int pieces = static_cast<int>(args_.in_features) / 8;
    const int num_tokens = static_cast<int>(args_.num_tokens);
#pragma unroll 1
    for (int first = 0; first < num_tokens; first += kTogether) {
      uint32_t tops[kTogether] = {};
#pragma unroll 1
      for (int i = static_cast<int>(threadIdx.x); i < pieces; i += C::kThreads) {
        Vec16 x[kTogether];
#pragma unroll
        for (int b = 0; b < kTogether; ++b) {
          if (first + b < num_tokens) {
            x[b] = load16(args_.x + (first + b) * static_cast<int>(args_.in_features) + i * 8);
          }
        }
#pragma unroll
        for (int b = 0; b < kTogether; ++b) {
          if (first + b < num_tokens) {
            raise<C>(tops[b], x[b]);
            store16(x_row(first + b) + i * 16, x[b]);
          }
        }
      }
#pragma unroll
      for (int b = 0; b < kTogether; ++b) {
        keep_maximum(first + b, tops[b]);
      }
    }
  }

  __device__ __forceinline__ void keep_maximum([[maybe_unused]] int token,
                                               [[maybe_unused]] uint32_t top) {
#if ATOM_GPU_CUDA
    if constexpr (C::kF16) {
      top = __reduce_max_sync(~0U, max(top & 0xffffU, top >> 16));
      if (lane_ == 0 && token < static_cast<int>(args_.num_tokens)) {
        maxima_[warp_ * C::kTokens + token] = top;
      }
    }
#endif
  }

  // Exponent field of the power of two that brings a token's largest value to [2^14, 2^15).
  __device__ __forceinline__ uint32_t scale_exponent(int token) const {
    uint32_t top = 0;
#pragma unroll
    for (int w = 0; w < C::kWarps; ++w) {
      top = max(top, maxima_[w * C::kTokens + token]);
    }
    return min(268U - (top >> 7), 253U);
  }

  // Staged bf16 to f16: each thread what it staged itself.
  __device__ __forceinline__ void scale_x() {
    const int pieces = static_cast<int>(args_.in_features) / 8;
#pragma unroll 1
    for (int m = 0; m < static_cast<int>(args_.num_tokens); ++m) {
      const float scale = bits_to_float(scale_exponent(m) << 23);
#pragma unroll 2
      for (int i = static_cast<int>(threadIdx.x); i < pieces; i += C::kThreads) {
        Vec16 x = load16(x_row(m) + i * 16);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#if ATOM_GPU_CUDA
          x.word[j] = pack_f16(bf16_low(x.word[j]) * scale, bf16_high(x.word[j]) * scale);
#else
          (void)scale;
#endif
        }
        store16(x_row(m) + i * 16, x);
      }
    }
  }

  // Eight values of x from k on; tokens past the last repeat it, their sums are not stored.
  __device__ __forceinline__ Vec16 load_x(int tile, int load, int k) const {
    const int last = static_cast<int>(args_.num_tokens) - 1;
    const int token = min(tile * ProductTile::kTokens + ProductTile::token(lane_, load), last);
    if constexpr (C::kSharedX) {
      return load16(x_row(token) + k * 2);
    } else {
      return load16(args_.x + token * static_cast<int>(args_.in_features) + k);
    }
  }

  __device__ __forceinline__ void load_x_tiles(
      int k, Vec16 (&x)[C::kTokenTiles][ProductTile::kTokenLoads]) {
#pragma unroll
    for (int t = 0; t < C::kTokenTiles; ++t) {
#pragma unroll
      for (int l = 0; l < ProductTile::kTokenLoads; ++l) {
        x[t][l] = l * 8 < C::kTokens ? load_x(t, l, k) : Vec16{};
      }
    }
  }

  __device__ __forceinline__ void multiply(const Vec16 (&weights)[C::kLoads], int round) {
    Vec16 x[C::kTokenTiles][ProductTile::kTokenLoads];
#pragma unroll
    for (int u = 0; u < C::kChunks; ++u) {
      const int offset = piece_offset(round, u);
      // Weights beyond the row are zero; x is read from where it is defined.
      const int k = offset < row_bytes_ ? offset / (C::kE4M3 ? 1 : 2) : 0;
#pragma unroll
      for (int half = 0; half < (C::kE4M3 ? 2 : 1); ++half) {
        load_x_tiles(k + half * 8, x);
#pragma unroll
        for (int r = 0; r < C::kTiles; ++r) {
          Vec16 w = weights[u * C::kTiles + r];
#if ATOM_GPU_CUDA
          if constexpr (C::kF16) {
            const uint32_t low = w.word[2 * half];
            const uint32_t high = w.word[2 * half + 1];
            w = Vec16{{e4m3_to_f16(low), e4m3_to_f16<true>(low), e4m3_to_f16(high),
                       e4m3_to_f16<true>(high)}};
          }
#endif
          if constexpr (C::kE4M3 && !C::kF16) {
            const uint2 low = e4m3_to_bf16(w.word[2 * half]);
            const uint2 high = e4m3_to_bf16(w.word[2 * half + 1]);
            w = Vec16{{low.x, low.y, high.x, high.y}};
          }
#pragma unroll
          for (int t = 0; t < C::kTokenTiles; ++t) {
            ProductTile::template multiply_add<C::kF16>(sums_[r][t], x[t], w);
          }
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
        if constexpr (C::kE4M3) {
          scale_ = args_.scales[row];
        }
      }
    }
#pragma unroll
    for (int r = 0; r < C::kTiles; ++r) {
#pragma unroll
      for (int t = 0; t < C::kTokenTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
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
            sums_[r][i / 4][i % 4];
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
    token = i / 4 * ProductTile::kTokens + ProductTile::sum_token(lane, i % 4);
    row = first_row(pass_, tile) + ProductTile::sum_row(lane, i % 4);
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
    if constexpr (C::kE4M3) {
      y *= kOneElement && !other ? scale_ : args_.scales[row];
    }
    if constexpr (C::kF16) {
      y *= bits_to_float((254U - scale_exponent(token)) << 23);
    }
    if (args_.norm_input != nullptr) {
      float squares = 0.0F;
      for (int w = 0; w < C::kWarps; ++w) {
        squares += squares_[w * 8 + token];
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
  float* const partials_;    // [2, kWarps, kPartials]
  float* const squares_;     // [kWarps, 8]
  uint32_t* const maxima_;   // [kWarps, kTokens] bits of bf16, where kF16
  uint8_t* const shared_x_;  // [num_tokens, in_features] bf16, rows padded
  const int stride_;
  const int lane_;
  const int warp_;
  const int row_bytes_;
  const int rounds_;  // groups of a warp in a row
  const bool pair_;
  const uint64_t policy_;

  Vec16 weights_[C::kDepth][C::kLoads];
  uint32_t rows_[C::kTiles];  // where the rows begin, in pieces of 16 bytes
  float sums_[C::kTiles][C::kTokenTiles][4];
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
