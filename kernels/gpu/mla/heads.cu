// A small product per head: x of few tokens or many with the head's own weight. A warp computes
// kTokens tokens x kRows rows straight from global memory: 16-byte pieces of row-major rows are the
// fragments (primitives/mma.h).
#include "kernels/gpu/mla.h"
#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/primitives/mma.h"

namespace atom::gpu {
namespace {

constexpr int kWarps = 4;
constexpr int kStep = 32;  // values of in_features at a time

// Values [at, at + 8) of a row, zeros from `size` on; rows begin anywhere where not kAligned.
template <bool kAligned>
__device__ __forceinline__ Vec16 load_values(const uint16_t* row, int at, int size) {
  Vec16 values{};
  if constexpr (kAligned) {
    if (at < size) {
      values = load16(row + at);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t low = at + 2 * i < size ? row[at + 2 * i] : 0U;
      const uint32_t high = at + 2 * i + 1 < size ? row[at + 2 * i + 1] : 0U;
      values.word[i] = low | (high << 16);
    }
  }
  return values;
}

// Grid: (row tiles / kWarps, token groups, heads). kTokenTiles: tiles of tokens that share a warp's
// weights.
template <int kTokenTiles, bool kAligned>
__global__ void __launch_bounds__(kWarps* kWarpSize)
    linear_heads_kernel(const LinearHeadsArgs args) {
  using Tile = ProductTile;
  // Steps whose weights are on their way together; many tokens have other loads to wait with.
  constexpr int kAhead = kTokenTiles == 1 ? 4 : 1;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int first_row = (static_cast<int>(blockIdx.x) * kWarps + warp) * Tile::kRows;
  const int64_t first_token = int64_t{blockIdx.y} * kTokenTiles * Tile::kTokens;
  const int64_t head = blockIdx.z;
  const int offset = Tile::quarter(lane) * 8;
  const bool row_valid = first_row + Tile::row(lane) < args.out_features;
  const uint16_t* weight =
      args.weight + (head * args.row_stride + first_row + Tile::row(lane)) * args.in_features;
  wait_previous();
  allow_next();
  if (first_row >= args.out_features) {
    return;
  }
  const uint16_t* x[kTokenTiles][Tile::kTokenLoads];
  bool token_valid[kTokenTiles][Tile::kTokenLoads];
#pragma unroll
  for (int tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
    for (int load = 0; load < Tile::kTokenLoads; ++load) {
      const int64_t token = first_token + tile * Tile::kTokens + Tile::token(lane, load);
      token_valid[tile][load] = token < args.num_tokens;
      x[tile][load] = args.x + (token * args.num_heads + head) * args.x_stride;
    }
  }
  const Vec16 zeros{};
  float sums[kTokenTiles][4] = {};
  for (int begin = 0; begin < args.in_features; begin += kAhead * kStep) {
    Vec16 w[kAhead];
#pragma unroll
    for (int step = 0; step < kAhead; ++step) {
      const int k = begin + step * kStep + offset;
      w[step] = row_valid ? load_values<kAligned>(weight, k, args.in_features) : zeros;
    }
#pragma unroll
    for (int step = 0; step < kAhead; ++step) {
      const int k = begin + step * kStep + offset;
#pragma unroll
      for (int tile = 0; tile < kTokenTiles; ++tile) {
        Vec16 pieces[Tile::kTokenLoads];
#pragma unroll
        for (int load = 0; load < Tile::kTokenLoads; ++load) {
          pieces[load] = token_valid[tile][load]
                             ? load_values<kAligned>(x[tile][load], k, args.in_features)
                             : zeros;
        }
        Tile::multiply_add(sums[tile], pieces, w[step]);
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t token = first_token + tile * Tile::kTokens + Tile::sum_token(lane, i);
      const int row = first_row + Tile::sum_row(lane, i);
      if (token < args.num_tokens && row < args.out_features) {
        args.out[(token * args.num_heads + head) * args.out_stride + row] = to_bf16(sums[tile][i]);
      }
    }
  }
}

template <int kTokenTiles, bool kAligned>
DeviceStatus launch_heads(const LinearHeadsArgs& args, DeviceStream stream) {
  constexpr int kRows = kWarps * ProductTile::kRows;
  constexpr int kTokens = kTokenTiles * ProductTile::kTokens;
  return launch_chained(
      linear_heads_kernel<kTokenTiles, kAligned>,
      {.grid = dim3(static_cast<unsigned>((args.out_features + kRows - 1) / kRows),
                    static_cast<unsigned>((args.num_tokens + kTokens - 1) / kTokens),
                    static_cast<unsigned>(args.num_heads)),
       .block = dim3(kWarps * kWarpSize),
       .stream = static_cast<cudaStream_t>(stream)},
      args);
}

}  // namespace

DeviceStatus linear_heads(const LinearHeadsArgs& args, DeviceStream stream) {
  if (args.num_tokens == 0) {
    return nullptr;
  }
  if (args.in_features % 8 != 0 || args.x_stride % 8 != 0) {
    return launch_heads<1, false>(args, stream);
  }
  return args.num_tokens <= ProductTile::kTokens ? launch_heads<1, true>(args, stream)
                                                 : launch_heads<4, true>(args, stream);
}

}  // namespace atom::gpu
