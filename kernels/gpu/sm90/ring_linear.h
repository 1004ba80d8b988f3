// The small-M product with weights through a ring of shared-memory stages that the copy engine
// fills (Hopper and later): 1 to 2 KB of a row at a time, so that memory reads long runs and a
// block holds up to 200 KB in flight whatever its registers. Sums are SmallLinear's, in its order:
// results are bit for bit those of the portable kernel, its sibling. One producer warp, eight
// consumer warps.
//
// Stage: one round (1024 values of k) of the rows of a pass, rows padded by 64 bytes against bank
// conflicts. Barriers: full[stage] counts the producer's announcement and the bytes; empty[stage]
// counts consumer warps. Only bulk copies write the stages, so no proxy fence is needed. C++20.
#pragma once

#include "kernels/gpu/linear/small_body.h"

namespace atom::gpu {

inline constexpr int kRingMaxStages = 16;
inline constexpr int kRingMinStages = 3;
inline constexpr int kRingSharedBytes = 227 << 10;

template <class C>
struct RingConfig {
  static constexpr int kRoundBytes = C::kWarps * C::kGroupValues * C::Format::kBits / 8;
  static constexpr int kRowStride = kRoundBytes + 64;
  static constexpr int kStageBytes = C::kPassRows * kRowStride;
  static constexpr int kThreads = C::kThreads + kWarpSize;

  // Shared memory beside the stages, and how many stages fit.
  static int64_t fixed_bytes(const LinearArgs& args);
  static int64_t stages(const LinearArgs& args);
};

struct ConsumerBarrier {
  static __device__ __forceinline__ void wait() { asm volatile("bar.sync 1, 256;" ::: "memory"); }
};

struct RingBarriers {
  uint64_t full[kRingMaxStages];
  uint64_t empty[kRingMaxStages];
};

template <class C>
int64_t RingConfig<C>::fixed_bytes(const LinearArgs& args) {
  return C::shared_bytes(args.num_tokens, args.in_features) +
         static_cast<int64_t>(sizeof(RingBarriers));
}
template <class C>
int64_t RingConfig<C>::stages(const LinearArgs& args) {
  const int64_t room = (kRingSharedBytes - fixed_bytes(args)) / kStageBytes;
  return room < kRingMaxStages ? room : kRingMaxStages;
}

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void wait_for_phase(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{.reg .pred p; again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @!p bra "
      "again;}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Where a ring stands: stage and phase advance together.
struct RingPosition {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// One lane a row (kPassRows <= 32).
template <class C, class Product>
__device__ __forceinline__ void fill_ring(const LinearArgs& args, const Product& product,
                                          uint8_t* ring, RingBarriers& barriers, int stages,
                                          int num_passes) {
  using R = RingConfig<C>;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int tile = lane / ProductTile::kRows;
  const uint64_t policy = streaming_policy();
  RingPosition at{.stage = 0, .parity = 1};
  for (int pass = static_cast<int>(blockIdx.x); pass < num_passes;
       pass += static_cast<int>(gridDim.x)) {
    const int row =
        min(product.first_row(pass, tile) + lane % ProductTile::kRows, product.row_limit(tile) - 1);
    const uint8_t* from =
        static_cast<const uint8_t*>(args.weight) + static_cast<int64_t>(row) * product.row_bytes();
    for (int round = 0; round < product.rounds(); ++round) {
      const int bytes = min(R::kRoundBytes, product.row_bytes() - round * R::kRoundBytes);
      const uint32_t full = shared_address(&barriers.full[at.stage]);
      if (lane == 0) {
        wait_for_phase(&barriers.empty[at.stage], at.parity);
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(full),
                     "r"(bytes * C::kPassRows)
                     : "memory");
      }
      __syncwarp();
      if (lane < C::kPassRows) {
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
            "[%0], [%1], %2, [%3], %4;" ::"r"(
                shared_address(ring + at.stage * R::kStageBytes + lane * R::kRowStride)),
            "l"(from + round * R::kRoundBytes), "r"(bytes), "r"(full), "l"(policy)
            : "memory");
      }
      at.advance(stages);
    }
  }
}

template <class C>
__global__ void __launch_bounds__(RingConfig<C>::kThreads, 1)
    ring_linear_kernel(const LinearArgs args, const int num_passes, const int stages) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  using R = RingConfig<C>;
  extern __shared__ __align__(128) uint8_t shared[];
  uint8_t* ring = shared;
  auto& barriers = *reinterpret_cast<RingBarriers*>(ring + stages * R::kStageBytes);
  SmallLinear<C, ConsumerBarrier> product(args, reinterpret_cast<uint8_t*>(&barriers + 1),
                                          static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x),
                                          num_passes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < stages; ++i) {
      asm volatile(
          "mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&barriers.full[i])));
      asm volatile(
          "mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barriers.empty[i])),
          "r"(C::kWarps));
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  allow_next();
  if (threadIdx.x >= C::kThreads) {
    fill_ring<C>(args, product, ring, barriers, stages, num_passes);
    return;
  }

  wait_previous();
  product.stage_x();
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int piece = ProductTile::row(lane) * R::kRowStride + warp * C::kChunks * 64 +
                    ProductTile::quarter(lane) * 16;
  RingPosition at;
  product.run_from([&](Vec16(&weights)[C::kLoads], int round) {
    wait_for_phase(&barriers.full[at.stage], at.parity);
    const uint8_t* stage = ring + at.stage * R::kStageBytes + piece;
#pragma unroll
    for (int u = 0; u < C::kChunks; ++u) {
      const bool inside = product.piece_offset(round, u) < product.row_bytes();
#pragma unroll
      for (int r = 0; r < C::kTiles; ++r) {
        const Vec16 held = load16(stage + r * ProductTile::kRows * R::kRowStride + u * 64);
        weights[u * C::kTiles + r] = inside ? held : Vec16{};
      }
    }
    __syncwarp();
    if (lane == 0) {
      asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(
                       shared_address(&barriers.empty[at.stage]))
                   : "memory");
    }
    at.advance(stages);
  });
#endif
}

template <class C>
DeviceStatus launch_ring_config(const LinearArgs& args, const SmallLinearPlan& plan,
                                DeviceStream stream) {
  using R = RingConfig<C>;
  const bool pair = args.epilogue == LinearEpilogue::kSiluMul;
  const int64_t rows = pair ? C::kPassRows / 2 : C::kPassRows;
  const int64_t limit = pair ? args.out_features / 2 : args.out_features;
  const int64_t passes = (limit + rows - 1) / rows;
  const int64_t most = multiprocessor_count();
  const int64_t each = (passes + most - 1) / most;
  const int64_t fixed = R::fixed_bytes(args);
  const int64_t stages = R::stages(args);
  if (stages < kRingMinStages) {
    return "linear_small: x does not fit into shared memory";
  }
  const auto kernel = ring_linear_kernel<C>;
  static const cudaError_t raised =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, kRingSharedBytes);
  if (raised != cudaSuccess) {
    return status_of(raised);
  }
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>((passes + each - 1) / each)),
                          .block = dim3(R::kThreads),
                          .shared_bytes = static_cast<unsigned>(stages * R::kStageBytes + fixed),
                          .stream = static_cast<cudaStream_t>(stream)};
  return plan.chained
             ? launch_chained(kernel, shape, args, static_cast<int>(passes),
                              static_cast<int>(stages))
             : launch(kernel, shape, args, static_cast<int>(passes), static_cast<int>(stages));
}

template <class Format, int kTokens, int kTiles>
using RingProduct = SmallLinearConfig<Format, kTokens, kTiles, true, false, true>;

// Up to 16 tokens, x in shared memory.
template <class Format>
DeviceStatus launch_ring(const LinearArgs& args, const SmallLinearPlan& plan, DeviceStream stream) {
  if (args.num_tokens > 16) {
    return "linear_small: too many tokens for the ring";
  }
  const bool one = plan.row_tiles == 1;
  if (args.num_tokens <= 8) {
    return one ? launch_ring_config<RingProduct<Format, 8, 1>>(args, plan, stream)
               : launch_ring_config<RingProduct<Format, 8, 2>>(args, plan, stream);
  }
  return one ? launch_ring_config<RingProduct<Format, 16, 1>>(args, plan, stream)
             : launch_ring_config<RingProduct<Format, 16, 2>>(args, plan, stream);
}

// Stages that launch_ring would have, at least: of 16 tokens' sums.
template <class Format>
int64_t ring_stages(const LinearArgs& args, int row_tiles) {
  return row_tiles == 1 ? RingConfig<RingProduct<Format, 16, 1>>::stages(args)
                        : RingConfig<RingProduct<Format, 16, 2>>::stages(args);
}

DeviceStatus launch_ring_bf16(const LinearArgs& args, const SmallLinearPlan& plan,
                              DeviceStream stream);
DeviceStatus launch_ring_e4m3(const LinearArgs& args, const SmallLinearPlan& plan,
                              DeviceStream stream);

}  // namespace atom::gpu
