// In which layout are weights stored? One token times a bf16 matrix, at the sizes of the speed
// table, by four readers: the product's kernel on row-major rows; the same kernel on tiles of 8
// rows x 64 bytes stored in reading order; and a ring of shared-memory stages filled by the copy
// engine, from rows (2-D boxes with the 128-byte swizzle) and from tiles (plain bulk copies). The
// answer is in docs/gpu_kernels.md. Hopper only.
#include <cuda.h>

#include <cmath>

#include "kernels/gpu/linear/small_launch.h"
#include "kernels/gpu/linear_benchmark_support.h"

namespace atom::gpu::device_test {
namespace {

constexpr int kConsumers = 8;
constexpr int kRingThreads = (kConsumers + 1) * 32;
constexpr int kStageBytes = 16 << 10;  // 16 rows x 512 values of k; a warp reads 64 of them
constexpr int kStageValues = 512;
constexpr int kMaxStages = 12;

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ void wait_barrier(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{.reg .pred p; again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @!p bra "
      "again;}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

struct RingArgs {
  const uint8_t* weight = nullptr;  // tiles; of rows the map tells
  const uint16_t* x = nullptr;
  float* out = nullptr;
  int n = 0;
  int k = 0;
  int stages = 0;
};

struct RingShared {
  alignas(8) uint64_t full[kMaxStages];
  uint64_t empty[kMaxStages];
  float partials[2][kConsumers][2 * 2 * 32];
};

template <bool kBoxes>
__device__ void produce(const CUtensorMap& map, const RingArgs& a, uint8_t* ring, RingShared* s,
                        int passes) {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  int stage = 0;
  uint32_t parity = 1;
  for (int pass = blockIdx.x; pass < passes; pass += gridDim.x) {
    for (int k = 0; k < a.k; k += kStageValues) {
      wait_barrier(&s->empty[stage], parity);
      const uint32_t full = shared_address(&s->full[stage]);
      const uint32_t to = shared_address(ring + stage * kStageBytes);
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(full),
                   "r"(kStageBytes)
                   : "memory");
      if constexpr (kBoxes) {
        for (int box = 0; box < kConsumers; ++box) {
          asm volatile(
              "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
              ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to + box * 2048),
              "l"(&map), "r"(k + box * 64), "r"(pass * 16), "r"(full), "l"(policy)
              : "memory");
        }
      } else {
        for (int half = 0; half < 2; ++half) {
          const uint8_t* from =
              a.weight + (static_cast<int64_t>(pass * 2 + half) * 8 * a.k + k * 8) * 2;
          asm volatile(
              "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
              "[%0], [%1], %2, [%3], %4;" ::"r"(to + half * (kStageBytes / 2)),
              "l"(from), "r"(kStageBytes / 2), "r"(full), "l"(policy)
              : "memory");
        }
      }
      if (++stage == a.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
}

template <bool kBoxes>
__global__ void __launch_bounds__(kRingThreads, 1)
    ring_kernel(const __grid_constant__ CUtensorMap map, const RingArgs a) {
  extern __shared__ __align__(1024) uint8_t shared[];
  uint8_t* ring = shared + (1024 - shared_address(shared) % 1024) % 1024;
  auto* s = reinterpret_cast<RingShared*>(ring + a.stages * kStageBytes);
  auto* x = reinterpret_cast<uint8_t*>(s + 1);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < a.stages; ++i) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&s->full[i])));
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&s->empty[i])),
                   "r"(kConsumers));
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  const int passes = a.n / 16;
  allow_next();
  if (warp == kConsumers) {
    if (lane == 0) {
      produce<kBoxes>(map, a, ring, s, passes);
    }
    wait_previous();
    return;
  }
  wait_previous();
  for (int i = threadIdx.x; i < a.k / 8; i += kConsumers * 32) {
    store16(x + i * 16, load16(a.x + i * 8));
  }
  asm volatile("bar.sync 1, 256;" ::: "memory");
  int stage = 0;
  int parity_of_partials = 0;
  uint32_t parity = 0;
  for (int pass = blockIdx.x; pass < passes; pass += gridDim.x) {
    float sums[2][4] = {};
    for (int k = 0; k < a.k; k += kStageValues) {
      wait_barrier(&s->full[stage], parity);
      Vec16 w[2][2];
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int row = lane / 4;
          const int at =
              kBoxes ? warp * 2048 + (tile * 8 + row) * 128 + ((c * 4 + lane % 4) ^ row) * 16
                     : tile * (kStageBytes / 2) + (warp * 2 + c) * 512 + lane * 16;
          w[tile][c] = load16(ring + stage * kStageBytes + at);
        }
      }
      __syncwarp();
      if (lane == 0) {
        asm volatile(
            "mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&s->empty[stage]))
            : "memory");
      }
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const Vec16 xs[2] = {load16(x + (k + warp * 64 + c * 32 + lane % 4 * 8) * 2), Vec16{}};
        ProductTile::multiply_add(sums[0], xs, w[0][c]);
        ProductTile::multiply_add(sums[1], xs, w[1][c]);
      }
      if (++stage == a.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    float* buffer = s->partials[parity_of_partials][warp];
    for (int tile = 0; tile < 2; ++tile) {
      for (int i = 0; i < 2; ++i) {
        buffer[(tile * 2 + i) * 32 + lane] = sums[tile][i];
      }
    }
    asm volatile("bar.sync 1, 256;" ::: "memory");
    if (threadIdx.x < 16) {
      const int tile = threadIdx.x / 8;
      const int row = threadIdx.x % 8;
      float y = 0.0F;
      for (int w = 0; w < kConsumers; ++w) {
        y += s->partials[parity_of_partials][w][(tile * 2 + row % 2) * 32 + row / 2];
      }
      a.out[pass * 16 + threadIdx.x] = y;
    }
    parity_of_partials ^= 1;
  }
}

// Rows to tiles of 8 rows x 64 bytes.
__global__ void tile_rows(const Vec16* rows, Vec16* tiles, int64_t n, int64_t row_pieces) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i < n * row_pieces) {
    const int64_t row = i / row_pieces;
    const int64_t piece = i % row_pieces;
    tiles[(row / 8 * row_pieces + piece / 4 * 4) * 8 + row % 8 * 4 + piece % 4] = rows[i];
  }
}

CUtensorMap map_of(const uint8_t* weight, const BenchmarkShape& shape) {
  static const auto encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    ATOM_DEVICE(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                                 cudaEnableDefault, &found));
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  }();
  CUtensorMap map;
  const cuuint64_t dims[2] = {static_cast<cuuint64_t>(shape.k), static_cast<cuuint64_t>(shape.n)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(shape.k * 2)};
  const cuuint32_t box[2] = {64, 16};
  const cuuint32_t steps[2] = {1, 1};
  if (encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<uint8_t*>(weight), dims, strides,
             box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS) {
    std::printf("FAIL tensor map\n");
  }
  return map;
}

template <bool kBoxes>
DeviceStatus launch_ring(const CUtensorMap& map, const RingArgs& args, bool chained) {
  const int shared =
      args.stages * kStageBytes + static_cast<int>(sizeof(RingShared)) + args.k * 2 + 1024;
  static const cudaError_t raised =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(ring_kernel<kBoxes>),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10);
  ATOM_DEVICE(raised);
  const int passes = args.n / 16;
  const int each = (passes + multiprocessor_count() - 1) / multiprocessor_count();
  const LaunchShape launch_shape{.grid = dim3(static_cast<unsigned>((passes + each - 1) / each)),
                                 .block = dim3(kRingThreads),
                                 .shared_bytes = static_cast<unsigned>(shared),
                                 .stream = stream()};
  return chained ? launch_chained(ring_kernel<kBoxes>, launch_shape, map, args)
                 : launch(ring_kernel<kBoxes>, launch_shape, map, args);
}

double difference(const DeviceArray<float>& a, const DeviceArray<float>& b) {
  const std::vector<float> left = a.get();
  const std::vector<float> right = b.get();
  double errors = 0;
  double squares = 1e-30;
  for (size_t i = 0; i < left.size(); ++i) {
    errors += std::pow(static_cast<double>(left[i]) - static_cast<double>(right[i]), 2);
    squares += std::pow(static_cast<double>(left[i]), 2);
  }
  return std::isnan(errors) ? 1e9 : errors / squares;
}

void measure(const WeightPool& pool, const BenchmarkShape& shape, const uint16_t* x) {
  const int64_t bytes = shape.n * shape.k * 2;
  const auto rows = static_cast<size_t>(shape.n);
  DeviceArray<float> by_rows(rows);
  DeviceArray<float> out(rows);
  DeviceArray<uint8_t> tiles(static_cast<size_t>(bytes));
  const int64_t pieces = shape.n * shape.k / 8;
  tile_rows<<<static_cast<unsigned>((pieces + 255) / 256), 256, 0, stream()>>>(
      reinterpret_cast<const Vec16*>(pool.data()), reinterpret_cast<Vec16*>(tiles.data()), shape.n,
      shape.k / 8);
  ATOM_DEVICE(cudaGetLastError());
  const int count = launches_for(bytes);
  const int copies = std::min(pool.copies(bytes), count);
  std::vector<CUtensorMap> maps;
  for (int i = 0; i < copies; ++i) maps.push_back(map_of(pool.copy(i, bytes), shape));
  LinearArgs args{.x = x,
                  .weight = pool.data(),
                  .num_tokens = 1,
                  .out_features = shape.n,
                  .in_features = shape.k,
                  .out = by_rows.data(),
                  .out_dtype = DType::kF32};
  const auto speed = [&](double us) { return static_cast<double>(bytes) / us / 1e3; };
  std::printf("%-13s", shape.name);
  for (const bool chained : {false, true}) {
    SmallLinearPlan plan = choose_small_plan(args);
    plan.chained = chained;
    const auto rows_kernel = [&](int i) {
      LinearArgs a = args;
      a.weight = pool.copy(i, bytes);
      (void)linear_small(a, plan, stream());
    };
    const auto tiled_kernel = [&](const LinearArgs& a) {
      return plan.row_tiles == 1
                 ? launch_small_config<SmallLinearConfig<Bf16Format, 8, 1, true, true>>(a, plan,
                                                                                        stream())
                 : launch_small_config<SmallLinearConfig<Bf16Format, 8, 2, true, true>>(a, plan,
                                                                                        stream());
    };
    const int register_tiles = plan.row_tiles;
    (void)linear_small(args, plan, stream());
    RingArgs ring{.weight = tiles.data(),
                  .x = x,
                  .out = out.data(),
                  .n = static_cast<int>(shape.n),
                  .k = static_cast<int>(shape.k),
                  .stages = chained ? 5 : 6};
    LinearArgs tiled = args;
    tiled.weight = tiles.data();
    tiled.out = out.data();
    out.fill(0xff);
    (void)tiled_kernel(tiled);
    const double tiled_error = difference(by_rows, out);
    out.fill(0xff);
    (void)launch_ring<true>(maps[0], ring, chained);
    const double box_error = difference(by_rows, out);
    out.fill(0xff);
    (void)launch_ring<false>(maps[0], ring, chained);
    const double bulk_error = difference(by_rows, out);
    const double by_registers = speed(time_us(count, rows_kernel));
    plan.ring = true;
    plan.row_tiles = 2;
    std::printf(" | %s rows %5.0f (ring of 2-KB rows %5.0f) tiles %5.0f",
                chained ? "chained" : "plain", by_registers, speed(time_us(count, rows_kernel)),
                speed(time_us(count, [&](int i) {
                  LinearArgs a = tiled;
                  a.weight = pool.copy(i, bytes);
                  (void)tiled_kernel(a);
                })));
    for (const int stages : {5, 11}) {
      ring.stages = shape.k > 8192 && stages > 10 ? 10 : stages;
      std::printf(" ring%d boxes %5.0f tiles %5.0f", ring.stages,
                  speed(time_us(count,
                                [&](int i) {
                                  (void)launch_ring<true>(maps[static_cast<size_t>(i % copies)],
                                                          ring, chained);
                                })),
                  speed(time_us(count, [&](int i) {
                    RingArgs r = ring;
                    r.weight = pool.copy(i, bytes);
                    (void)launch_ring<false>(maps[0], r, chained);
                  })));
    }
    if (tiled_error > 1e-9 || box_error > 1e-9 || bulk_error > 1e-9) {
      std::printf(" WRONG %.1e %.1e %.1e", tiled_error, box_error, bulk_error);
    }
  }
  std::printf("\n");
  std::fflush(stdout);
}

void run_all() {
  const WeightPool pool;
  DeviceArray<uint16_t> x(16384);
  (void)fill_random(3, 1.0F, x.data(), 16384, stream());
  std::printf("GB/s of weights, one token, bf16; `tiles` are packed 8 rows x 64 bytes\n");
  for (const BenchmarkShape& shape : kLlama8B) measure(pool, shape, x.data());
  for (const BenchmarkShape& shape : kQwen06B) measure(pool, shape, x.data());
}

}  // namespace
}  // namespace atom::gpu::device_test

int main() {
  atom::gpu::device_test::run_all();
  return 0;
}
