// e4m3 products with scales in blocks: two-level accumulation. A tile is 64 or 128 tokens (the
// 64-row operand of wgmma, one warpgroup each) times 128 rows of weights (its columns). A stage
// holds one group of 128 values of k of both; the group's product is summed by the tensor cores,
// whose sums of e4m3 lose bits where they run on, and then added to f32 totals times the scales of
// token and block. While one warpgroup adds, the other multiplies. One producer thread brings boxes
// through a ring of stages that runs on across tiles; one block a multiprocessor. Where there are
// fewer tiles than multiprocessors, blocks share a tile's groups (linear/tiled_plan.h adds their
// sums).
//
// Barriers: full[stage] counts the producer's announcement and the bytes, empty[stage] the warps
// that multiply, each of which knows of its own products only.
#include "kernels/gpu/sm90/block_linear.h"

#include <algorithm>

#include "kernels/gpu/linear/tiled_plan.h"
#include "kernels/gpu/linear_layout.h"
#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/primitives/warp.h"
#include "kernels/gpu/sm90/e4m3_products.h"
#include "kernels/gpu/sm90/tensor_map.h"
#include "kernels/gpu/vector_ops/row_io.h"

namespace atom::gpu {
namespace {

using namespace sm90;

constexpr int kGroupThreads = 128;
constexpr int kTileRows = 128;
constexpr int kStepBytes = 128;  // of a row in a stage: a group of k
constexpr int kRowScales = kTileRows / 8;
constexpr int64_t kLeastGroups = 4;  // of a block that shares a tile

template <int kGroups_>
struct Layout {
  static constexpr int kGroups = kGroups_;  // warpgroups that multiply
  static constexpr int kTokens = 64 * kGroups;
  static constexpr int kThreads = (1 + kGroups) * kGroupThreads;
  static constexpr int kXBytes = kTokens * kStepBytes;
  static constexpr int kStageBytes = kXBytes + kTileRows * kStepBytes;
  static constexpr int kStages = kGroups == 1 ? 8 : 6;
  static constexpr int kBarriers = kStages * kStageBytes;
  static constexpr int kBytes = kBarriers + 2 * kStages * 8;
  static_assert(kBytes + 1024 <= 227 << 10);
};

struct Maps {
  CUtensorMap weight;
  CUtensorMap x;
};

struct Shape {
  int token_tiles;
  int tiles;  // of one split
  int splits;
  int groups;
};

struct Task {
  int first_token;
  int first_row;
  int split;
  int begin;  // groups
  int end;
};

// Neighbouring tasks share rows of weights.
template <int kTokens>
__device__ __forceinline__ Task task_of(const Shape& shape, int index) {
  const int split = index / shape.tiles;
  const int tile = index - split * shape.tiles;
  const int row_tile = tile / shape.token_tiles;
  return {.first_token = (tile - row_tile * shape.token_tiles) * kTokens,
          .first_row = row_tile * kTileRows,
          .split = split,
          .begin = shape.groups * split / shape.splits,
          .end = shape.groups * (split + 1) / shape.splits};
}

struct Position {
  int stage = 0;
  uint32_t parity = 0;
  template <int kStages>
  __device__ __forceinline__ void next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

template <class L>
__device__ void produce(const Shape& shape, const Maps& maps, uint8_t* shared, uint64_t* full,
                        uint64_t* empty) {
  Position at{.stage = 0, .parity = 1};
  for (int t = static_cast<int>(blockIdx.x); t < shape.tiles * shape.splits;
       t += static_cast<int>(gridDim.x)) {
    const Task task = task_of<L::kTokens>(shape, t);
    for (int group = task.begin; group < task.end; ++group) {
      wait_barrier(&empty[at.stage], at.parity);
      uint8_t* stage = shared + at.stage * L::kStageBytes;
      uint64_t* barrier = &full[at.stage];
      expect_bytes(barrier, L::kStageBytes);
      copy_box(stage, &maps.x, group * kStepBytes, task.first_token, barrier);
      copy_box(stage + L::kXBytes, &maps.weight, group * kStepBytes, task.first_row, barrier);
      at.next<L::kStages>();
    }
  }
}

// One warpgroup's 64 tokens of a block's tiles.
template <class L>
class Multiplier {
 public:
  __device__ Multiplier(const LinearArgs& args, const TiledPlan& plan, const float* x_scales,
                        uint8_t* shared, uint64_t* full, uint64_t* empty)
      : args_(args),
        plan_(plan),
        x_scales_(x_scales),
        shared_(shared),
        full_(full),
        empty_(empty),
        group_(static_cast<int>(threadIdx.x) / kGroupThreads - 1),
        thread_(static_cast<int>(threadIdx.x) % kGroupThreads),
        pitch_(static_cast<int>(block_scale_pitch(args.out_features))) {}

  __device__ __forceinline__ void run(const Task& task) {
    const int token = task.first_token + group_ * 64 + thread_ / 32 * 16 + thread_ % 32 / 4;
    const int last = static_cast<int>(args_.num_tokens) - 1;
    float totals[64];
#pragma unroll
    for (int i = 0; i < 64; ++i) {
      totals[i] = 0.0F;
    }
#pragma unroll 1
    for (int group = task.begin; group < task.end; ++group) {
      // Asked for before the wait for the stage.
      const float* of_tokens = x_scales_ + static_cast<int64_t>(group) * args_.num_tokens;
      const float low = of_tokens[min(token, last)];
      const float high = of_tokens[min(token + 8, last)];
      float of_rows[kRowScales];
      load_row_scales(group, task.first_row, of_rows);
      float sums[64];
      multiply(sums);
      add(sums, of_rows, low, high, totals);
    }
    store(task, token, totals);
  }

 private:
  __device__ __forceinline__ void load_row_scales(int group, int first_row,
                                                  float (&scales)[kRowScales]) const {
    const float* from = args_.scales + static_cast<int64_t>(group) * pitch_ + first_row / 8;
#pragma unroll
    for (int i = 0; i < kRowScales / 4; ++i) {
      const Vec16 four = load16(from + 4 * i);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        scales[4 * i + j] = bits_to_float(four.word[j]);
      }
    }
  }

  __device__ __forceinline__ void multiply(float (&sums)[64]) {
    wait_barrier(&full_[at_.stage], at_.parity);
    const uint32_t stage = shared_address(shared_ + at_.stage * L::kStageBytes);
    const uint32_t x = stage + group_ * 64 * kStepBytes;
    hold(sums);
    begin_products();
#pragma unroll
    for (int k = 0; k < kStepBytes / 32; ++k) {
      multiply_e4m3(sums, rows_along_k(x + k * 32), rows_along_k(stage + L::kXBytes + k * 32),
                    k > 0);
    }
    close_products();
    products_done<0>();
    hold(sums);
    if (thread_ % 32 == 0) {
      arrive(&empty_[at_.stage]);
    }
    at_.next<L::kStages>();
  }

  // Sums of a thread: tokens lane / 4 and 8 further of its warp's 16, rows 8 j + lane % 4 * 2 and
  // the next one.
  static __device__ __forceinline__ void add(const float (&sums)[64],
                                             const float (&of_rows)[kRowScales], float low,
                                             float high, float (&totals)[64]) {
#pragma unroll
    for (int j = 0; j < kRowScales; ++j) {
      const float scale_low = of_rows[j] * low;
      const float scale_high = of_rows[j] * high;
      totals[4 * j] += scale_low * sums[4 * j];
      totals[4 * j + 1] += scale_low * sums[4 * j + 1];
      totals[4 * j + 2] += scale_high * sums[4 * j + 2];
      totals[4 * j + 3] += scale_high * sums[4 * j + 3];
    }
  }

  __device__ __forceinline__ void store(const Task& task, int token,
                                        const float (&totals)[64]) const {
#pragma unroll
    for (int j = 0; j < kRowScales; ++j) {
      const int row = task.first_row + 8 * j + thread_ % 4 * 2;
      if (row < args_.out_features) {
        store_pair(task.split, token, row, totals[4 * j], totals[4 * j + 1]);
        store_pair(task.split, token + 8, row, totals[4 * j + 2], totals[4 * j + 3]);
      }
    }
  }

  __device__ __forceinline__ void store_pair(int split, int token, int row, float first,
                                             float second) const {
    if (token >= args_.num_tokens) {
      return;
    }
    const int64_t at = static_cast<int64_t>(token) * args_.out_features + row;
    if (plan_.partials != nullptr) {
      float* out = plan_.partials + split * args_.num_tokens * args_.out_features + at;
      *reinterpret_cast<float2*>(out) = make_float2(first, second);
      return;
    }
    if (args_.bias != nullptr) {
      first += args_.bias[row];
      second += args_.bias[row + 1];
    }
    if (args_.out_dtype == DType::kF32) {
      *reinterpret_cast<float2*>(static_cast<float*>(args_.out) + at) = make_float2(first, second);
    } else {
      *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(args_.out) + at) =
          pack_bf16(first, second);
    }
  }

  const LinearArgs& args_;
  const TiledPlan& plan_;
  const float* x_scales_;
  uint8_t* shared_;
  uint64_t* full_;
  uint64_t* empty_;
  const int group_;
  const int thread_;
  const int pitch_;
  Position at_;
};

template <class L>
__global__ void __launch_bounds__(L::kThreads, 1)
    block_linear_kernel(const LinearArgs args, const TiledPlan plan, const Shape shape,
                        const float* x_scales, const __grid_constant__ Maps maps) {
  extern __shared__ __align__(1024) uint8_t shared[];
  auto* full = reinterpret_cast<uint64_t*>(shared + L::kBarriers);
  uint64_t* empty = full + L::kStages;
  if (threadIdx.x == 0) {
    for (int i = 0; i < L::kStages; ++i) {
      init_barrier(&full[i], 1);
      init_barrier(&empty[i], L::kGroups * kGroupThreads / 32);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    publish_shared();
  }
  __syncthreads();
  allow_next();
  wait_previous();
  if (threadIdx.x < kGroupThreads) {
    if constexpr (L::kGroups > 1) {
      shrink_registers<40>();
    }
    if (threadIdx.x == 0) {
      produce<L>(shape, maps, shared, full, empty);
    }
  } else {
    if constexpr (L::kGroups > 1) {
      grow_registers<232>();
    }
    Multiplier<L> multiplier(args, plan, x_scales, shared, full, empty);
    for (int t = static_cast<int>(blockIdx.x); t < shape.tiles * shape.splits;
         t += static_cast<int>(gridDim.x)) {
      multiplier.run(task_of<L::kTokens>(shape, t));
    }
  }
}

// --- x, quantised per token and group: 16 lanes a group ---

constexpr int kQuantizeThreads = 256;
constexpr int kLanes = 16;

__global__ void __launch_bounds__(kQuantizeThreads)
    quantize_groups_kernel(const uint16_t* x, uint8_t* out, float* scales, const int num_tokens,
                           const int in_features) {
  const auto groups = static_cast<int>(scale_groups(in_features));
  const int64_t unit = (static_cast<int64_t>(blockIdx.x) * kQuantizeThreads + threadIdx.x) / kLanes;
  const auto token = static_cast<int>(unit / groups);
  const auto group = static_cast<int>(unit - static_cast<int64_t>(token) * groups);
  const int k = group * kStepBytes + static_cast<int>(threadIdx.x) % kLanes * 8;
  const bool inside = token < num_tokens && k < in_features;
  const int64_t at = static_cast<int64_t>(token) * in_features + k;
  allow_next();
  wait_previous();
  float values[8] = {};
  if (inside) {
    load8(x + at, values);
  }
  float largest = 0.0F;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    largest = fmaxf(largest, fabsf(values[i]));
  }
  largest = reduce_lanes<MaxOf, kLanes>(largest);
  const float scale = largest > 0.0F ? largest / kE4M3Largest : 1.0F;
  if (inside) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      values[i] /= scale;
    }
    store8(out + at, values);
    if (threadIdx.x % kLanes == 0) {
      scales[static_cast<int64_t>(group) * num_tokens + token] = scale;
    }
  }
}

DeviceStatus quantize_groups(const LinearArgs& args, const BlockLinearScratch& scratch,
                             DeviceStream stream) {
  const int64_t threads = args.num_tokens * scale_groups(args.in_features) * kLanes;
  const int64_t blocks = (threads + kQuantizeThreads - 1) / kQuantizeThreads;
  return launch_chained(quantize_groups_kernel,
                        {.grid = dim3(static_cast<unsigned>(blocks)),
                         .block = dim3(kQuantizeThreads),
                         .stream = static_cast<cudaStream_t>(stream)},
                        args.x, scratch.x, scratch.x_scales, static_cast<int>(args.num_tokens),
                        static_cast<int>(args.in_features));
}

template <class L>
DeviceStatus launch_blocks(const LinearArgs& args, const BlockLinearScratch& scratch,
                           DeviceStream stream) {
  const auto groups = scale_groups(args.in_features);
  const int64_t token_tiles = (args.num_tokens + L::kTokens - 1) / L::kTokens;
  const int64_t tiles = (args.out_features + kTileRows - 1) / kTileRows * token_tiles;
  const int64_t multiprocessors = multiprocessor_count();
  const int64_t bytes = args.num_tokens * args.out_features * 4;
  const int64_t splits = std::max<int64_t>(
      1,
      std::min({multiprocessors / tiles, groups / kLeastGroups, scratch.partials_bytes / bytes}));
  const TiledPlan plan{.splits = static_cast<int>(splits),
                       .partials = splits > 1 ? scratch.partials : nullptr};
  const Shape shape{.token_tiles = static_cast<int>(token_tiles),
                    .tiles = static_cast<int>(tiles),
                    .splits = plan.splits,
                    .groups = static_cast<int>(groups)};
  Maps maps{};
  if (!make_byte_map(args.weight, args.out_features, args.in_features, kTileRows, &maps.weight) ||
      !make_byte_map(scratch.x, args.num_tokens, args.in_features, L::kTokens, &maps.x)) {
    return "block_linear: no tensor map";
  }
  const auto kernel = block_linear_kernel<L>;
  static const cudaError_t raised =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, L::kBytes);
  if (raised != cudaSuccess) {
    return status_of(raised);
  }
  const LaunchShape launched{
      .grid = dim3(static_cast<unsigned>(std::min(multiprocessors, tiles * splits))),
      .block = dim3(L::kThreads),
      .shared_bytes = L::kBytes,
      .stream = static_cast<cudaStream_t>(stream)};
  const DeviceStatus failed =
      launch_chained(kernel, launched, args, plan, shape, scratch.x_scales, maps);
  return failed != nullptr || plan.partials == nullptr ? failed
                                                       : add_tiled_partials(args, plan, stream);
}

}  // namespace

bool takes_block_linear(const LinearArgs& args) {
  return device_is_hopper() && tensor_map_encoder() != nullptr && args.num_tokens > 0 &&
         args.num_tokens < int64_t{1} << 24 && args.epilogue == LinearEpilogue::kStore &&
         args.norm_input == nullptr;
}

DeviceStatus block_linear(const LinearArgs& args, const BlockLinearScratch& scratch,
                          DeviceStream stream) {
  if (const DeviceStatus failed = quantize_groups(args, scratch, stream)) {
    return failed;
  }
  return args.num_tokens <= 64 ? launch_blocks<Layout<1>>(args, scratch, stream)
                               : launch_blocks<Layout<2>>(args, scratch, stream);
}

}  // namespace atom::gpu
