// Products of weights of fewer than 16 bits with more tokens than the streaming kernel likes: a
// block multiplies 128 rows with 32 tokens, 128 values of k (a group) at a time. Weights lie in
// shared memory as they are stored and become bf16 in registers (weight_formats.h); a lane's 16
// bytes are its fragments (primitives/mma.h), of x as of weights. Where there are fewer tiles than
// multiprocessors, blocks share a tile's groups, and a second kernel adds their sums in order.
//
// Shared memory: stages of a group of x [32, 128] bf16, rows padded against bank conflicts, of
// weights in chunks of 64 bytes a row, and of their scales and zero points. Barriers: one a group,
// after which the stage of the group before is filled again. Portable: mma.sync or MFMA. C++20.
#pragma once

#include "kernels/gpu/linear/tiled_plan.h"
#include "kernels/gpu/linear/weight_formats.h"
#include "kernels/gpu/primitives/copy.h"
#include "kernels/gpu/primitives/launch.h"

namespace atom::gpu {

template <class Format_>
struct Tiled {
  using Format = Format_;
  static constexpr int kRows = 128;
  static constexpr int kTokens = 32;
  static constexpr int kThreads = 128;
  // Of a multiprocessor: 168 registers a thread, or 255 where each 32 values have scales.
  static constexpr int kBlocks = Format::kScaleValues == 32 ? 2 : 3;
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kRowWarps = kWarps;
  static constexpr int kTokenWarps = kWarps / kRowWarps;
  static constexpr int kRowTiles = kRows / kRowWarps / ProductTile::kRows;
  static constexpr int kTokenTiles = kTokens / kTokenWarps / ProductTile::kTokens;

  static constexpr int kValues = static_cast<int>(kGroupValues);
  static constexpr int kChunkValues = 512 / Format::kBits;  // 64 bytes
  static constexpr int kChunks = kValues / kChunkValues;
  static constexpr int kPieces = 16 / Format::kBits;
  // Eight lanes read 16 bytes each of two rows of x: 64 neighbouring bytes of each, or every second
  // 16 of 128.
  static constexpr int kXPitch = kValues * 2 + (Format::kInterleaved ? 64 : 16);
  static constexpr int kXBytes = kTokens * kXPitch;
  static constexpr int kScales = kXBytes + kRows * kValues * Format::kBits / 8;
  static constexpr int kZeros = kScales + Format::kScaleBytes128;
  static constexpr int kStageBytes = kZeros + Format::kZeroBytes128;
  static constexpr int kStages = kCopiesInBackground ? 3 : 1;
  static constexpr int kSharedBytes = kStages * kStageBytes;
};

template <class T>
class TiledProduct {
 public:
  using Format = typename T::Format;
  using Group = typename Format::Group;

  __device__ TiledProduct(const LinearArgs& args, uint8_t* shared, int splits)
      : args_(args),
        shared_(shared),
        lane_(static_cast<int>(threadIdx.x) % kWarpSize),
        row_(static_cast<int>(threadIdx.x) / kWarpSize % T::kRowWarps * (T::kRows / T::kRowWarps)),
        token_(static_cast<int>(threadIdx.x) / kWarpSize / T::kRowWarps *
               (T::kTokens / T::kTokenWarps)),
        first_row_(static_cast<int>(blockIdx.x) * T::kRows),
        first_token_(static_cast<int>(blockIdx.y) * T::kTokens) {
    const auto groups = static_cast<int>(scale_groups(args.in_features));
    const auto split = static_cast<int>(blockIdx.z);
    begin_ = static_cast<int>(static_cast<int64_t>(groups) * split / splits);
    count_ = static_cast<int>(static_cast<int64_t>(groups) * (split + 1) / splits) - begin_;
  }

  // Before wait_previous: constant data only.
  __device__ __forceinline__ void prefetch() {
    if constexpr (T::kStages > 1) {
#pragma unroll
      for (int s = 0; s < T::kStages - 1; ++s) {
        copy_weights(s);
        copy_scales(s);
      }
    }
  }

  __device__ __forceinline__ void run() {
    if constexpr (T::kStages > 1) {
#pragma unroll
      for (int s = 0; s < T::kStages - 1; ++s) {
        copy_x(s);
        close_copies();
      }
    }
    int stage = 0;
#pragma unroll 1
    for (int step = 0; step < count_; ++step) {
      if constexpr (T::kStages > 1) {
        copies_done<T::kStages - 2>();
        __syncthreads();
        copy_weights(step + T::kStages - 1);
        copy_scales(step + T::kStages - 1);
        copy_x(step + T::kStages - 1);
        close_copies();
      } else {
        __syncthreads();
        copy_weights(step);
        copy_scales(step);
        copy_x(step);
        __syncthreads();
      }
      multiply(shared_ + stage * T::kStageBytes);
      stage = stage + 1 == T::kStages ? 0 : stage + 1;
    }
  }

  __device__ __forceinline__ void store(float* partials) const {
#pragma unroll
    for (int r = 0; r < T::kRowTiles; ++r) {
#pragma unroll
      for (int t = 0; t < T::kTokenTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row =
              first_row_ + row_ + r * ProductTile::kRows + ProductTile::sum_row(lane_, i);
          const int token =
              first_token_ + token_ + t * ProductTile::kTokens + ProductTile::sum_token(lane_, i);
          if (row < args_.out_features && token < args_.num_tokens) {
            store_one(partials, static_cast<int64_t>(token) * args_.out_features + row, row,
                      sums_[r][t][i]);
          }
        }
      }
    }
  }

 private:
  __device__ __forceinline__ void store_one(float* partials, int64_t at, int row, float y) const {
    if (partials != nullptr) {
      const int64_t all = args_.num_tokens * args_.out_features;
      partials[static_cast<int64_t>(blockIdx.z) * all + at] = y;
      return;
    }
    if constexpr (Format::kRowScales) {
      y *= args_.scales[row];
    }
    if (args_.bias != nullptr) {
      y += args_.bias[row];
    }
    if (args_.out_dtype == DType::kF32) {
      static_cast<float*>(args_.out)[at] = y;
    } else {
      static_cast<uint16_t*>(args_.out)[at] = to_bf16(y);
    }
  }

  // Rows past the end read the last one, past the end of a row zeros are read; steps past the last
  // are none.
  __device__ __forceinline__ void copy_weights(int step) {
    if (step >= count_) {
      return;
    }
    constexpr int kRowPieces = T::kChunks * 4;
    const auto row_bytes = static_cast<int>(
        packed_row_bytes(Format::kBits == 4 ? DType::kU4 : DType::kF8E4M3, args_.in_features));
    uint8_t* to = shared_ + step % T::kStages * T::kStageBytes + T::kXBytes;
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < T::kRows * kRowPieces; i += T::kThreads) {
      const int row = i / kRowPieces;
      const int piece = i % kRowPieces;
      const int at = (begin_ + step) * (T::kChunks * 64) + piece * 16;
      const int64_t from =
          static_cast<int64_t>(min(first_row_ + row, static_cast<int>(args_.out_features) - 1)) *
          row_bytes;
      copy16(to + (piece / 4 * T::kRows + row) * 64 + piece % 4 * 16,
             static_cast<const uint8_t*>(args_.weight) + from + (at < row_bytes ? at : 0),
             at < row_bytes);
    }
  }

  __device__ __forceinline__ void copy_x(int step) {
    if (step >= count_) {
      return;
    }
    constexpr int kRowPieces = T::kValues / 8;
    uint8_t* to = shared_ + step % T::kStages * T::kStageBytes;
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < T::kTokens * kRowPieces; i += T::kThreads) {
      const int token = i / kRowPieces;
      const int piece = i % kRowPieces;
      const int k = (begin_ + step) * T::kValues + piece * 8;
      const int64_t from =
          static_cast<int64_t>(min(first_token_ + token, static_cast<int>(args_.num_tokens) - 1)) *
          args_.in_features;
      const bool inside = k < args_.in_features;
      copy16(to + token * T::kXPitch + piece * 16, args_.x + from + (inside ? k : 0), inside);
    }
  }

  __device__ __forceinline__ void copy_scales(int step) {
    if constexpr (Format::kScaleValues > 0) {
      if (step >= count_) {
        return;
      }
      const GroupScales from = Format::scales_of(args_, begin_ + step);
      uint8_t* stage = shared_ + step % T::kStages * T::kStageBytes;
      copy_rows<Format::kScaleBytes128>(stage + T::kScales, from.scales);
      if (Format::kZeroBytes128 > 0 && from.zeros != nullptr) {
        copy_rows<Format::kZeroBytes128>(stage + T::kZeros, from.zeros);
      }
    }
  }

  // kBytes of 128 rows of a table, the tile's; zeros past the last row, of which 8 are never apart.
  template <int kBytes>
  __device__ __forceinline__ void copy_rows(uint8_t* to, const uint8_t* table) {
    constexpr int kBytesOfRows = kBytes > 0 ? kBytes : 128;
    for (int i = static_cast<int>(threadIdx.x) * 8; i < kBytes; i += T::kThreads * 8) {
      const int64_t row = first_row_ + i * 128 / kBytesOfRows;
      copy8(to + i, table + static_cast<int64_t>(first_row_) * kBytes / 128 + i,
            row < args_.out_features);
    }
  }

  __device__ __forceinline__ void multiply(const uint8_t* stage) {
    if constexpr (Format::kScaleValues == 0) {
      return add_products(stage, sums_);
    }
    float parts[T::kRowTiles][T::kTokenTiles][4] = {};
    add_products(stage, parts);
    if constexpr (Format::kScaleValues == T::kValues) {
      add_scaled(stage, parts, 0);
    }
  }

  // Of this lane, in tile r of the warp's. Only what is used of it is loaded, where it is used.
  __device__ __forceinline__ Group group_of(const uint8_t* stage, int r) const {
    if constexpr (Format::kScaleValues == 0) {
      return {};
    } else {
      const int row = row_ + r * ProductTile::kRows;
      return Format::find(
          {.scales = stage + T::kScales, .zeros = args_.has_zeros ? stage + T::kZeros : nullptr},
          row + ProductTile::sum_row(lane_, 0), row + ProductTile::row(lane_));
    }
  }

  __device__ __forceinline__ void add_products(const uint8_t* stage,
                                               float (&sums)[T::kRowTiles][T::kTokenTiles][4]) {
    const int quarter = ProductTile::quarter(lane_);
#pragma unroll
    for (int c = 0; c < T::kChunks; ++c) {
      Vec16 stored[T::kRowTiles];
#pragma unroll
      for (int r = 0; r < T::kRowTiles; ++r) {
        const int row = row_ + r * ProductTile::kRows + ProductTile::row(lane_);
        stored[r] = load16(stage + T::kXBytes + (c * T::kRows + row) * 64 + quarter * 16);
      }
#pragma unroll
      for (int p = 0; p < T::kPieces; ++p) {
        const int k = Format::kInterleaved ? p * 32 + quarter * 8
                                           : c * T::kChunkValues + quarter * 8 * T::kPieces + p * 8;
        Vec16 x[T::kTokenTiles][ProductTile::kTokenLoads];
#pragma unroll
        for (int t = 0; t < T::kTokenTiles; ++t) {
#pragma unroll
          for (int l = 0; l < ProductTile::kTokenLoads; ++l) {
            const int token = token_ + t * ProductTile::kTokens + ProductTile::token(lane_, l);
            x[t][l] = load16(stage + token * T::kXPitch + k * 2);
          }
        }
#pragma unroll
        for (int r = 0; r < T::kRowTiles; ++r) {
          const Vec16 w = Format::template piece<false>(stored[r], p, group_of(stage, r));
#pragma unroll
          for (int t = 0; t < T::kTokenTiles; ++t) {
            ProductTile::multiply_add(sums[r][t], x[t], w);
          }
        }
        if constexpr (Format::kScaleValues == 32) {
          add_scaled(stage, sums, p);
        }
      }
    }
  }

  // The sums of a group, or of its 32 values p, to those of the row; none are left.
  __device__ __forceinline__ void add_scaled(const uint8_t* stage,
                                             float (&parts)[T::kRowTiles][T::kTokenTiles][4],
                                             int p) {
#pragma unroll
    for (int r = 0; r < T::kRowTiles; ++r) {
      const Group group = group_of(stage, r);
#pragma unroll
      for (int t = 0; t < T::kTokenTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sums_[r][t][i] += Format::template scale<false>(group, p, i) * parts[r][t][i];
          parts[r][t][i] = 0.0F;
        }
      }
    }
  }

  const LinearArgs& args_;
  uint8_t* const shared_;
  const int lane_;
  const int row_;    // of the tile, where this warp's begin
  const int token_;  // likewise
  const int first_row_;
  const int first_token_;
  int begin_ = 0;  // of this block's groups
  int count_ = 0;
  float sums_[T::kRowTiles][T::kTokenTiles][4] = {};
};

template <class T>
__global__ void ATOM_LAUNCH_BOUNDS(T::kThreads, T::kBlocks)
    tiled_linear_kernel(const LinearArgs args, const TiledPlan plan) {
  extern __shared__ Vec16 shared[];
  TiledProduct<T> product(args, reinterpret_cast<uint8_t*>(shared), plan.splits);
  product.prefetch();
  allow_next();
  wait_previous();
  product.run();
  product.store(plan.partials);
}

template <class Format>
DeviceStatus launch_tiled(const LinearArgs& args, const TiledPlan& plan, DeviceStream stream) {
  using T = Tiled<Format>;
  const auto kernel = tiled_linear_kernel<T>;
  static const cudaError_t raised =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, T::kSharedBytes);
  if (raised != cudaSuccess) {
    return status_of(raised);
  }
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>((args.out_features + T::kRows - 1) / T::kRows),
                   static_cast<unsigned>((args.num_tokens + T::kTokens - 1) / T::kTokens),
                   static_cast<unsigned>(plan.splits)),
      .block = dim3(T::kThreads),
      .shared_bytes = T::kSharedBytes,
      .stream = static_cast<cudaStream_t>(stream)};
  return launch_chained(kernel, shape, args, plan);
}

}  // namespace atom::gpu
