// x of the small-M product: in shared memory, as it is, or multiplied with a norm's weight, or as
// f16 that narrow weights are multiplied with; or where it lies. Every thread of the block calls
// stage(). C++20.
#pragma once

#include "kernels/gpu/linear/small_config.h"
#include "kernels/gpu/vector_ops/row_io.h"

namespace atom::gpu {

// Barrier: of the threads that hold this class.
template <class C, class Barrier>
class SmallLinearX {
 public:
  // shared: the part of the block's that begins with the norm's sums.
  __device__ SmallLinearX(const LinearArgs& args, uint8_t* shared)
      : args_(args),
        squares_(reinterpret_cast<float*>(shared)),
        maxima_(reinterpret_cast<uint32_t*>(squares_ + C::kNormSquares)),
        shared_x_(shared + (C::kNormSquares + C::kMaxima) * 4),
        lane_(static_cast<int>(threadIdx.x) % kWarpSize),
        warp_(static_cast<int>(threadIdx.x) / kWarpSize) {}

  // x, or the norm's input times its weight, into shared memory.
  __device__ __forceinline__ void stage() {
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

  // The fragments of all tokens from value k on.
  __device__ __forceinline__ void load(int k,
                                       Vec16 (&x)[C::kTokenTiles][C::Tile::kTokenLoads]) const {
#pragma unroll
    for (int t = 0; t < C::kTokenTiles; ++t) {
#pragma unroll
      for (int l = 0; l < C::Tile::kTokenLoads; ++l) {
        x[t][l] = l * 8 < C::kTokens ? load_x(t, l, k) : Vec16{};
      }
    }
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

  // What a warp summed of a token's squares.
  __device__ __forceinline__ float squares(int warp, int token) const {
    return squares_[warp * 8 + token];
  }

 private:
  __device__ __forceinline__ int row_stride() const {
    return C::x_values(static_cast<int>(args_.in_features)) * 2 + C::kRowPadding;
  }
  __device__ __forceinline__ uint8_t* x_row(int token) const {
    return shared_x_ + token * row_stride();
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

  // x as it is, and the largest value of each token. Four loads of a thread are in flight: of one
  // token along the row, of several across them.
  __device__ __forceinline__ void stage_plain() {
    const int pieces = static_cast<int>(args_.in_features) / 8;
    const int num_tokens = static_cast<int>(args_.num_tokens);
    const int together = num_tokens > 1 ? kTogether : 1;
    const int along = num_tokens > 1 ? 1 : kTogether;
#pragma unroll 1
    for (int first = 0; first < num_tokens; first += together) {
      uint32_t tops[kTogether] = {};
#pragma unroll 1
      for (int i = static_cast<int>(threadIdx.x); i < pieces; i += along * C::kThreads) {
        Vec16 x[kTogether];
        // The b-th: of token first + b, or b rounds of the block further along the row.
        const auto token = [&](int b) { return first + (num_tokens > 1 ? b : 0); };
        const auto piece = [&](int b) { return i + (num_tokens > 1 ? 0 : b * C::kThreads); };
#pragma unroll
        for (int b = 0; b < kTogether; ++b) {
          if (token(b) < num_tokens && piece(b) < pieces) {
            x[b] = load16(args_.x + token(b) * static_cast<int>(args_.in_features) + piece(b) * 8);
          }
        }
#pragma unroll
        for (int b = 0; b < kTogether; ++b) {
          if (token(b) < num_tokens && piece(b) < pieces) {
            raise<C>(tops[b], x[b]);
            store16(x_row(token(b)) + piece(b) * 16, x[b]);
          }
        }
      }
      if (num_tokens == 1) {
        keep_maximum(0, highest(tops));
        return;
      }
#pragma unroll
      for (int b = 0; b < kTogether; ++b) {
        keep_maximum(first + b, tops[b]);
      }
    }
  }

  static constexpr int kTogether = 4;

  static __device__ __forceinline__ uint32_t
  highest([[maybe_unused]] const uint32_t (&tops)[kTogether]) {
#if ATOM_GPU_CUDA
    return __vmaxu2(__vmaxu2(tops[0], tops[1]), __vmaxu2(tops[2], tops[3]));
#else
    return 0;  // nobody asks
#endif
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

  // Staged bf16 to f16, each thread what it staged itself; zeros behind it. Odd words are made
  // smaller where their weights come larger (kOddFactor).
  __device__ __forceinline__ void scale_x() {
    const int pieces = static_cast<int>(args_.in_features) / 8;
    const int all = C::x_values(static_cast<int>(args_.in_features)) / 8;
#pragma unroll 1
    for (int m = 0; m < static_cast<int>(args_.num_tokens); ++m) {
      const float scale = bits_to_float(scale_exponent(m) << 23);
#pragma unroll kScaledTogether
      for (int i = static_cast<int>(threadIdx.x); i < pieces; i += C::kThreads) {
        Vec16 x = load16(x_row(m) + i * 16);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#if ATOM_GPU_CUDA
          const float by = j % 2 == 1 ? scale / C::kOddFactor : scale;
          x.word[j] = pack_f16(bf16_low(x.word[j]) * by, bf16_high(x.word[j]) * by);
#else
          (void)scale;
#endif
        }
        store16(x_row(m) + i * 16, x);
      }
      if (pieces + static_cast<int>(threadIdx.x) < all) {
        store16(x_row(m) + (pieces + static_cast<int>(threadIdx.x)) * 16, Vec16{});
      }
    }
  }
  static constexpr int kScaledTogether = C::kTurned ? 4 : 2;

  // Eight values of x from k on; tokens past the last repeat it, their sums are not stored.
  __device__ __forceinline__ Vec16 load_x(int tile, int load, int k) const {
    const int last = static_cast<int>(args_.num_tokens) - 1;
    const int token = min(tile * C::Tile::kTokens + C::Tile::token(lane_, load), last);
    if constexpr (C::kSharedX) {
      return load16(x_row(token) + k * 2);
    } else {
      return load16(args_.x + token * static_cast<int>(args_.in_features) + k);
    }
  }

  const LinearArgs& args_;
  float* const squares_;     // [kWarps, 8]
  uint32_t* const maxima_;   // [kWarps, kTokens] bits of bf16, where kF16
  uint8_t* const shared_x_;  // [num_tokens, in_features] bf16, rows padded
  const int lane_;
  const int warp_;
};

}  // namespace atom::gpu
