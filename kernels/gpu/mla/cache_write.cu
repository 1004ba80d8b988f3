// The cache row of a token, and the rotated part of its queries.
#include "kernels/gpu/mla/cache_row.h"
#include "kernels/gpu/primitives/launch.h"

namespace atom::gpu {
namespace {

constexpr int kThreads = 256;

// A block a token.
__global__ void __launch_bounds__(kThreads) mla_cache_write_kernel(const MlaCacheWriteArgs args) {
  __shared__ float sums[kThreads / kWarpSize];
  wait_previous();
  allow_next();
  const int half = static_cast<int>(args.shape.rope) / 2;
  const int64_t token = blockIdx.x;
  for (int i = static_cast<int>(threadIdx.x); i < args.shape.num_heads * half; i += kThreads) {
    rotate_query(args, token, i / half, i % half);
  }
  write_cache_row<kThreads>(args, token, sums);
}

}  // namespace

DeviceStatus mla_cache_write(const MlaCacheWriteArgs& args, DeviceStream stream) {
  if (args.num_tokens == 0) {
    return nullptr;
  }
  return launch_chained(mla_cache_write_kernel,
                        {.grid = dim3(static_cast<unsigned>(args.num_tokens)),
                         .block = dim3(kThreads),
                         .stream = static_cast<cudaStream_t>(stream)},
                        args);
}

}  // namespace atom::gpu
