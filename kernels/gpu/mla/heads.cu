// Products per head alone, and those of the queries together with what else a token begins with.
#include "kernels/gpu/mla/cache_row.h"
#include "kernels/gpu/mla/heads_tile.h"
#include "kernels/gpu/primitives/launch.h"

namespace atom::gpu {
namespace {

constexpr int kThreads = kHeadsWarps * kWarpSize;

// Grid: (rows, tokens, heads).
template <class Tile>
__global__ void __launch_bounds__(kThreads) linear_heads_kernel(const LinearHeadsArgs args) {
  Tile tile(args, blockIdx.z);
  tile.prefetch();
  wait_previous();
  allow_next();
  tile.run();
}

template <class Tile>
DeviceStatus launch_heads(const LinearHeadsArgs& args, DeviceStream stream) {
  return launch_chained(linear_heads_kernel<Tile>,
                        {.grid = heads_grid<Tile>(args, args.num_heads),
                         .block = dim3(kThreads),
                         .stream = static_cast<cudaStream_t>(stream)},
                        args);
}

// Rows of up to 128 values are asked for at once.
using QueriesTile = HeadsTile<1, 4, true>;

// Grid: (rows, tokens, 1 + heads); the first slice writes the cache.
__global__ void __launch_bounds__(kThreads)
    mla_queries_kernel(const MlaCacheWriteArgs write, const LinearHeadsArgs key_up) {
  __shared__ float sums[kHeadsWarps];
  const int64_t begin = int64_t{blockIdx.y} * QueriesTile::kTokens;
  const int64_t left = write.num_tokens - begin;
  const int64_t end = begin + (left < QueriesTile::kTokens ? left : QueriesTile::kTokens);
  if (blockIdx.z == 0) {
    wait_previous();
    allow_next();
    for (int64_t token = begin + blockIdx.x; token < end; token += gridDim.x) {
      write_cache_row<kThreads>(write, token, sums);
      __syncthreads();
    }
    return;
  }
  const int64_t head = int64_t{blockIdx.z} - 1;
  QueriesTile tile(key_up, head);
  tile.prefetch();
  wait_previous();
  allow_next();
  if (blockIdx.x == 0) {
    const int half = static_cast<int>(write.shape.rope) / 2;
    for (int i = static_cast<int>(threadIdx.x); i < (end - begin) * half; i += kThreads) {
      rotate_query(write, begin + i / half, head, i % half);
    }
  }
  tile.run();
}

}  // namespace

DeviceStatus linear_heads(const LinearHeadsArgs& args, DeviceStream stream) {
  if (args.num_tokens == 0) {
    return nullptr;
  }
  if (!heads_are_aligned(args)) {
    return launch_heads<HeadsTile<1, 4, false>>(args, stream);
  }
  if (args.num_tokens > ProductTile::kTokens) {
    return launch_heads<HeadsTile<4, 1, true>>(args, stream);
  }
  return args.in_features <= 128 ? launch_heads<HeadsTile<1, 4, true>>(args, stream)
                                 : launch_heads<HeadsTile<1, 16, true>>(args, stream);
}

DeviceStatus mla_queries(const MlaCacheWriteArgs& write, const LinearHeadsArgs& key_up,
                         DeviceStream stream) {
  if (write.num_tokens == 0) {
    return nullptr;
  }
  if (write.num_tokens > QueriesTile::kTokens || !heads_are_aligned(key_up)) {
    const DeviceStatus failed = mla_cache_write(write, stream);
    return failed ? failed : linear_heads(key_up, stream);
  }
  return launch_chained(mla_queries_kernel,
                        {.grid = heads_grid<QueriesTile>(key_up, 1 + write.shape.num_heads),
                         .block = dim3(kThreads),
                         .stream = static_cast<cudaStream_t>(stream)},
                        write, key_up);
}

}  // namespace atom::gpu
