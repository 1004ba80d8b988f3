// The kernel around SmallLinear and its launch for one weight type; instantiated in
// small_<type>.cu so that they compile in parallel. C++20.
#pragma once

#include <algorithm>

#include "kernels/gpu/linear/turned_body.h"

namespace atom::gpu {

#if ATOM_GPU_HIP
inline constexpr int kMaxShared = 64 << 10;
#else
inline constexpr int kMaxShared = 227 << 10;
#endif

template <class C>
__global__ void ATOM_LAUNCH_BOUNDS(C::kThreads, C::kBlocksPerMultiprocessor)
    small_linear_kernel(LinearArgs args, const int num_passes) {
  extern __shared__ Vec16 shared[];
  const int64_t token = static_cast<int64_t>(blockIdx.y) * C::kTokens;
  args.x += token * args.in_features;
  const int64_t width =
      args.epilogue == LinearEpilogue::kSiluMul ? args.out_features / 2 : args.out_features;
  const bool wide = args.out_dtype == DType::kF32 || args.epilogue == LinearEpilogue::kAddResidual;
  args.out = static_cast<uint8_t*>(args.out) + token * width * (wide ? 4 : 2);
  args.num_tokens = args.num_tokens - token < C::kTokens ? args.num_tokens - token : C::kTokens;

  using Product = std::conditional_t<C::kTurned, TurnedLinear<C>, SmallLinear<C>>;
  Product product(args, reinterpret_cast<uint8_t*>(shared), static_cast<int>(blockIdx.x),
                  static_cast<int>(gridDim.x), num_passes);
  product.prefetch();
  allow_next();
  wait_previous();
  product.stage_x();
  product.run();
}

template <class C>
DeviceStatus launch_small_config(const LinearArgs& args, const SmallLinearPlan& plan,
                                 DeviceStream stream) {
  const int64_t rows = args.epilogue == LinearEpilogue::kSiluMul ? C::kPassRows / 2 : C::kPassRows;
  const int64_t limit =
      args.epilogue == LinearEpilogue::kSiluMul ? args.out_features / 2 : args.out_features;
  const int64_t passes = (limit + rows - 1) / rows;
  const int64_t most =
      static_cast<int64_t>(multiprocessor_count()) * plan.blocks_per_multiprocessor;
  // As evenly as whole passes go: over blocks, or over multiprocessors where each has several.
  const int64_t each = C::kTurned ? 1 : (passes + most - 1) / most;
  const int64_t shared = C::shared_bytes(
      args.num_tokens < C::kTokens ? args.num_tokens : C::kTokens, args.in_features);
  if (shared > kMaxShared) {
    return "linear_small: x does not fit into shared memory";
  }
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(std::min(most, (passes + each - 1) / each)),
                   static_cast<unsigned>((args.num_tokens + C::kTokens - 1) / C::kTokens)),
      .block = dim3(C::kThreads),
      .shared_bytes = static_cast<unsigned>(shared),
      .stream = static_cast<cudaStream_t>(stream)};
  const auto kernel = small_linear_kernel<C>;
  static const cudaError_t raised =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxShared);
  if (raised != cudaSuccess) {
    return status_of(raised);
  }
  return plan.chained ? launch_chained(kernel, shape, args, static_cast<int>(passes))
                      : launch(kernel, shape, args, static_cast<int>(passes));
}

template <class Format, int kTokens, bool kSharedX>
DeviceStatus launch_small_tiles(const LinearArgs& args, const SmallLinearPlan& plan,
                                DeviceStream stream) {
  if (plan.row_tiles == 1) {
    return launch_small_config<SmallLinearConfig<Format, kTokens, 1, kSharedX>>(args, plan, stream);
  }
  return launch_small_config<SmallLinearConfig<Format, kTokens, 2, kSharedX>>(args, plan, stream);
}

template <class Format>
DeviceStatus launch_small(const LinearArgs& args, const SmallLinearPlan& plan,
                          DeviceStream stream) {
  if (args.num_tokens <= 8) {
    return plan.shared_x ? launch_small_tiles<Format, 8, true>(args, plan, stream)
                         : launch_small_tiles<Format, 8, false>(args, plan, stream);
  }
#if !ATOM_GPU_HIP  // its 64 KB of shared memory hold the sums of 16 tokens
  if (args.num_tokens > 32) {
    return launch_small_config<SmallLinearConfig<Format, 64, 1, false>>(args, plan, stream);
  }
  if (args.num_tokens > 16) {
    return launch_small_config<SmallLinearConfig<Format, 32, 2, false>>(args, plan, stream);
  }
#endif
  return plan.shared_x && args.num_tokens <= 16
             ? launch_small_tiles<Format, 16, true>(args, plan, stream)
             : launch_small_tiles<Format, 16, false>(args, plan, stream);
}

// Formats that only few tokens go through this kernel with: fewer variants. More go 16 at a time.
template <class Format>
DeviceStatus launch_small_packed(const LinearArgs& args, const SmallLinearPlan& plan,
                                 DeviceStream stream) {
  if (args.num_tokens > 8) {
    return launch_small_config<SmallLinearConfig<Format, 16, 2, false>>(args, plan, stream);
  }
  if (!plan.shared_x) {
    return launch_small_config<SmallLinearConfig<Format, 8, 2, false>>(args, plan, stream);
  }
#if !ATOM_GPU_HIP
  if constexpr (Format::kTurns) {
    return launch_small_config<SmallLinearConfig<Format, 8, 2, true>>(args, plan, stream);
  }
#endif
  return launch_small_tiles<Format, 8, true>(args, plan, stream);
}

DeviceStatus launch_small_bf16(const LinearArgs& args, const SmallLinearPlan& plan,
                               DeviceStream stream);
DeviceStatus launch_small_e4m3(const LinearArgs& args, const SmallLinearPlan& plan,
                               DeviceStream stream);
DeviceStatus launch_small_e4m3_blocks(const LinearArgs& args, const SmallLinearPlan& plan,
                                      DeviceStream stream);
DeviceStatus launch_small_i8(const LinearArgs& args, const SmallLinearPlan& plan,
                             DeviceStream stream);
DeviceStatus launch_small_u4(const LinearArgs& args, const SmallLinearPlan& plan,
                             DeviceStream stream);
DeviceStatus launch_small_u4_short(const LinearArgs& args, const SmallLinearPlan& plan,
                                   DeviceStream stream);
DeviceStatus launch_small_e2m1(const LinearArgs& args, const SmallLinearPlan& plan,
                               DeviceStream stream);

}  // namespace atom::gpu
