// The kernels around expert_rows.h and expert_sums.h, and their launches.
#include "kernels/gpu/moe/expert_rows.h"
#include "kernels/gpu/moe/expert_sums.h"

namespace atom::gpu {
namespace {

constexpr int kBlocksPerMultiprocessor = 2;

template <class F, bool kFew>
__global__ void ATOM_LAUNCH_BOUNDS(kExpertThreads, kBlocksPerMultiprocessor)
    expert_rows_kernel(const ExpertRowsArgs args) {
  __shared__ typename ExpertRows<F, kFew>::Shared shared;
  wait_previous();
  allow_next();  // after the wait: the choice is readable before the wait of the next kernel
  ExpertRows<F, kFew>(args, shared).run();
}

template <class F>
__global__ void ATOM_LAUNCH_BOUNDS(kExpertThreads, kBlocksPerMultiprocessor)
    expert_sums_kernel(const FusedExpertsArgs args, const uint16_t* inside) {
  __shared__ typename ExpertSums<F>::Shared shared;
  ExpertSums<F> sums(args, inside, shared);
  sums.begin();
  allow_next();
  wait_previous();
  sums.run();
}

template <class F>
DeviceStatus launch_rows(const ExpertRowsArgs& args, DeviceStream stream) {
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(multiprocessor_count() * kBlocksPerMultiprocessor)),
      .block = dim3(kExpertThreads),
      .stream = static_cast<cudaStream_t>(stream)};
  return args.plan.tasks == nullptr ? launch_chained(expert_rows_kernel<F, true>, shape, args)
                                    : launch_chained(expert_rows_kernel<F, false>, shape, args);
}

}  // namespace

DeviceStatus expert_rows(const ExpertRowsArgs& args, DeviceStream stream) {
  switch (args.weight.dtype) {
    case DType::kF8E4M3:
      return launch_rows<E4m3Experts>(args, stream);
    case DType::kF4E2M1:
      return launch_rows<Mxfp4Experts>(args, stream);
    default:
      return launch_rows<Bf16Experts>(args, stream);
  }
}

DeviceStatus expert_sums(const FusedExpertsArgs& args, const uint16_t* inside,
                         DeviceStream stream) {
  const int64_t units = (args.down.rows + ProductTile::kRows - 1) / ProductTile::kRows;
  const int64_t most = static_cast<int64_t>(multiprocessor_count()) * 8;
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(units < most ? units : most)),
                          .block = dim3(kExpertThreads),
                          .stream = static_cast<cudaStream_t>(stream)};
  switch (args.down.dtype) {
    case DType::kF8E4M3:
      return launch_chained(expert_sums_kernel<E4m3Experts>, shape, args, inside);
    case DType::kF4E2M1:
      return launch_chained(expert_sums_kernel<Mxfp4Experts>, shape, args, inside);
    default:
      return launch_chained(expert_sums_kernel<Bf16Experts>, shape, args, inside);
  }
}

}  // namespace atom::gpu
