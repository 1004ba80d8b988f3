// Which tiles a product is cut into, and the sums of tiles that several blocks share.
#include "kernels/gpu/linear/tiled.h"

#include <algorithm>

namespace atom::gpu {

DeviceStatus launch_tiled_bytes(const LinearArgs& args, const TiledPlan& plan, DeviceStream stream);
DeviceStatus launch_tiled_nibbles(const LinearArgs& args, const TiledPlan& plan,
                                  DeviceStream stream);

namespace {

constexpr int kThreads = 256;
constexpr int64_t kLeastGroups = 4;  // of a block: below, its start costs more than its share

// A thread: four outputs of a row.
__global__ void __launch_bounds__(kThreads)
    add_partials_kernel(const LinearArgs args, const TiledPlan plan, const bool row_scales) {
  allow_next();
  wait_previous();
  const int64_t all = args.num_tokens * args.out_features;
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4;
  if (at >= all) {
    return;
  }
  float sums[4] = {};
  for (int s = 0; s < plan.splits; ++s) {
    const Vec16 part = load16(plan.partials + s * all + at);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[i] += bits_to_float(part.word[i]);
    }
  }
  const int64_t row = at % args.out_features;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float y = sums[i];
    if (row_scales) {
      y *= args.scales[row + i];
    }
    if (args.bias != nullptr) {
      y += args.bias[row + i];
    }
    if (args.out_dtype == DType::kF32) {
      static_cast<float*>(args.out)[at + i] = y;
    } else {
      static_cast<uint16_t*>(args.out)[at + i] = to_bf16(y);
    }
  }
}

}  // namespace

DeviceStatus add_tiled_partials(const LinearArgs& args, const TiledPlan& plan,
                                DeviceStream stream) {
  const int64_t threads = args.num_tokens * args.out_features / 4;
  const bool row_scales = args.weight_dtype == DType::kI8 || args.weight_dtype == DType::kU4;
  return launch_chained(add_partials_kernel,
                        {.grid = dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads)),
                         .block = dim3(kThreads),
                         .stream = static_cast<cudaStream_t>(stream)},
                        args, plan, row_scales);
}

TiledPlan choose_tiled_plan(const LinearArgs& args, void* scratch, int64_t scratch_bytes) {
  using T = Tiled<I8Format>;
  const int64_t tiles = ((args.out_features + T::kRows - 1) / T::kRows) *
                        ((args.num_tokens + T::kTokens - 1) / T::kTokens);
  const int64_t bytes = args.num_tokens * args.out_features * 4;
  const int64_t multiprocessors = multiprocessor_count();
  if (tiles == 0 || tiles >= 2 * multiprocessors) {
    return {};
  }
  const int64_t splits =
      std::min({T::kBlocks * multiprocessors / tiles, scale_groups(args.in_features) / kLeastGroups,
                scratch_bytes / std::max<int64_t>(1, bytes)});
  return splits <= 1 ? TiledPlan{}
                     : TiledPlan{.splits = static_cast<int>(splits),
                                 .partials = static_cast<float*>(scratch)};
}

DeviceStatus linear_tiled(const LinearArgs& args, const TiledPlan& plan, DeviceStream stream) {
  if (args.num_tokens == 0 || args.out_features == 0) {
    return nullptr;
  }
  const DeviceStatus failed = is_nibbles(args.weight_dtype)
                                  ? launch_tiled_nibbles(args, plan, stream)
                                  : launch_tiled_bytes(args, plan, stream);
  return failed != nullptr || plan.partials == nullptr ? failed
                                                       : add_tiled_partials(args, plan, stream);
}

}  // namespace atom::gpu
