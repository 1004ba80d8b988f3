// Latent attention for Hopper: the kernel around mla_block.h, and its launch. 512 + 64 values of
// bf16, cache blocks of 16 tokens or more (whose copies are faster from 64 on); mla/attention.cu
// takes the rest.
#include <algorithm>

#include "kernels/gpu/mla/hopper.h"
#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/sm90/mla_block.h"

namespace atom::gpu {
namespace {

using namespace sm90;
using namespace sm90::latent;

constexpr int kSmallestBox = 16;  // rows of a copy

__global__ void __launch_bounds__(kThreads, 1)
    mla_hopper_kernel(const __grid_constant__ MlaAttentionArgs args,
                      const __grid_constant__ MlaGrid grid, const __grid_constant__ CUtensorMap map,
                      const int box) {
  extern __shared__ __align__(1024) uint8_t shared[];
  auto* control = reinterpret_cast<Control*>(shared + kControl);
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < 2; ++slot) {
      for (int half = 0; half < 2; ++half) {
        init_barrier(&control->full[slot][half], 1);
        init_barrier(&control->empty[slot][half], kGroupWarps);
      }
      init_barrier(&control->weighed[slot], kGroupWarps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    publish_shared();
  }
  // A step's inputs are readable before the wait, see launch.h.
  const MlaTile tile = MlaTile::find(args.metadata, grid, static_cast<int>(blockIdx.x),
                                     static_cast<int>(blockIdx.y));
  wait_previous();
  allow_next();
  if (tile.num_tokens <= 0) {
    return;
  }
  const Keys keys(grid, tile);
  __syncthreads();  // the barriers are there
  if (threadIdx.x >= 2 * kGroupThreads) {
    shrink_registers<24>();
    if (threadIdx.x < 2 * kGroupThreads + kLanes) {
      bring_tiles(args, tile, keys, &map, box, shared);
    }
  } else {
    grow_registers<240>();
    Group group(args, grid, tile, keys, shared);
    group.load_query();
    if (threadIdx.x < kGroupThreads) {
      group.run_even();
    } else {
      group.run_odd();
    }
    group.finish();
  }
}

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                 const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

EncodeTiled encoder() {
  static const EncodeTiled found = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result{};
    (void)cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                           cudaEnableDefault, &result);
    return reinterpret_cast<EncodeTiled>(entry);
  }();
  return found;
}

int64_t cache_rows(const MlaAttentionArgs& args) {
  return args.cache.num_blocks * args.cache.block_size;
}

}  // namespace

bool mla_hopper_takes(const MlaAttentionArgs& args) {
  return device_is_hopper() && encoder() != nullptr && args.cache.dtype == DType::kBF16 &&
         args.shape.rank == kRank && args.shape.rank + args.shape.rope == kRowValues &&
         args.metadata.block_size >= kSmallestBox && cache_rows(args) < 0x7ffffff0;
}

DeviceStatus launch_mla_hopper(const MlaAttentionArgs& args, const MlaGrid& grid,
                               int64_t token_tiles, DeviceStream stream) {
  CUtensorMap map{};
  const cuuint64_t sizes[2] = {kRowValues, static_cast<cuuint64_t>(cache_rows(args))};
  const cuuint64_t strides[1] = {kRowValues * 2};
  const auto rows = static_cast<int>(std::min<int64_t>(args.metadata.block_size, kKeys));
  const cuuint32_t box[2] = {64, static_cast<cuuint32_t>(rows)};
  const cuuint32_t steps[2] = {1, 1};
  if (encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, args.cache.k, sizes, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS) {
    return "mla_attention: the cache cannot be described to the device";
  }
  static const cudaError_t prepared =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(mla_hopper_kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (prepared != cudaSuccess) {
    return status_of(prepared);
  }
  return launch_chained(
      mla_hopper_kernel,
      {.grid = dim3(static_cast<unsigned>(token_tiles), static_cast<unsigned>(grid.head_tiles),
                    static_cast<unsigned>(grid.splits)),
       .block = dim3(kThreads),
       .shared_bytes = kSharedBytes,
       .stream = static_cast<cudaStream_t>(stream)},
      args, grid, map, rows);
}

}  // namespace atom::gpu
