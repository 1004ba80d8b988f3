// The experts' products of many tokens on Hopper. A tile is 128 rows of gate with their 128 rows of
// up (or 256 rows of one matrix) times up to kTokens pairs of one expert: weights are the 64-row
// operand of wgmma, tokens its columns, as many as the tile has (16 to 128), so that few tokens
// cost few. Two warpgroups multiply, 64 + 64 rows each; a third brings boxes of 64 values of k
// through a ring of stages that runs on across tiles. One block a multiprocessor; neighbouring
// blocks take neighbouring rows of one expert.
//
// Barriers: full[stage] counts the producer's announcement and the bytes, empty[stage] the two
// warpgroups. Boxes that reach beyond an expert's rows or pairs bring another's, which are
// multiplied and not stored; beyond the tensor, zeros.
#include <algorithm>

#include "kernels/gpu/moe/experts.h"
#include "kernels/gpu/sm90/token_products.h"

namespace atom::gpu {
namespace {

using namespace sm90;

constexpr int kGroupThreads = 128;
constexpr int kThreads = 3 * kGroupThreads;
constexpr int kBoxRows = 128;
constexpr int kBoxBytes = kBoxRows * 128;
constexpr int kXBoxRows = 32;
constexpr int kXBoxBytes = kXBoxRows * 128;
constexpr int kStepValues = 64;    // of k in a stage: 128 bytes of a row
constexpr int kScratchPitch = 48;  // bytes of a token's 16 results, without bank conflicts
constexpr int kScratchBytes = 16 * kScratchPitch;  // of a warp

template <int kTokens_>
struct Layout {
  static constexpr int kTokens = kTokens_;
  static constexpr int kXBytes = kTokens * 128;
  static constexpr int kStageBytes = 2 * kBoxBytes + kXBytes;
  static constexpr int kStages = kTokens == 64 ? 5 : 4;
  static constexpr int kScratch = kStages * kStageBytes;
  static constexpr int kBarriers = kScratch + 8 * kScratchBytes;
  static constexpr int kBytes = kBarriers + 2 * kStages * 8;
  static_assert(kBytes + 1024 <= 227 << 10);
};

struct Maps {
  CUtensorMap weight;
  CUtensorMap x;
};

struct Shape {
  int expert_rows;  // of the weight's tensor
  int tile_rows;    // from one tile's first box to the next one's
  int second;       // from the first box's rows to the second one's
  int row_tiles;
  int k_steps;
  int width;  // of a row of results
};

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
__device__ void produce(const GroupedProductArgs& args, const Shape& shape, const Maps& maps,
                        uint8_t* shared, uint64_t* full, uint64_t* empty, int num_tiles) {
  Position at{.stage = 0, .parity = 1};
  for (int t = static_cast<int>(blockIdx.x); t < num_tiles; t += static_cast<int>(gridDim.x)) {
    const int index = t / shape.row_tiles;
    const int4 task = __ldcg(reinterpret_cast<const int4*>(args.plan.tasks) + index);
    const int row = task.x * shape.expert_rows + (t - index * shape.row_tiles) * shape.tile_rows;
    const int boxes = (task.z + kXBoxRows - 1) / kXBoxRows;
    for (int step = 0; step < shape.k_steps; ++step) {
      wait_barrier(&empty[at.stage], at.parity);
      uint8_t* stage = shared + at.stage * L::kStageBytes;
      uint64_t* barrier = &full[at.stage];
      expect_bytes(barrier, 2 * kBoxBytes + boxes * kXBoxBytes);
      copy_box(stage, &maps.weight, step * kStepValues, row, barrier);
      copy_box(stage + kBoxBytes, &maps.weight, step * kStepValues, row + shape.second, barrier);
      for (int box = 0; box < boxes; ++box) {
        copy_box(stage + 2 * kBoxBytes + box * kXBoxBytes, &maps.x, step * kStepValues,
                 task.y + box * kXBoxRows, barrier);
      }
      at.next<L::kStages>();
    }
  }
}

// One warpgroup's part of a block's tiles.
template <class L>
class Multiplier {
 public:
  __device__ Multiplier(const GroupedProductArgs& args, const Shape& shape, uint8_t* shared,
                        uint64_t* full, uint64_t* empty)
      : args_(args),
        shape_(shape),
        shared_(shared),
        full_(full),
        empty_(empty),
        group_(static_cast<int>(threadIdx.x) / kGroupThreads - 1),
        thread_(static_cast<int>(threadIdx.x) % kGroupThreads) {}

  __device__ __forceinline__ void run(int tile) {
    const int index = tile / shape_.row_tiles;
    row_tile_ = tile - index * shape_.row_tiles;
    const int4 task = __ldcg(reinterpret_cast<const int4*>(args_.plan.tasks) + index);
    expert_ = task.x;
    begin_ = task.y;
    count_ = task.z;
    if (count_ <= 16) {
      multiply<16>();
    } else if (count_ <= 32) {
      multiply<32>();
    } else if (count_ <= 64) {
      multiply<64>();
    } else if constexpr (L::kTokens > 64) {
      if (count_ <= 96) {
        multiply<96>();
      } else {
        multiply<128>();
      }
    }
  }

 private:
  template <int kTokens>
  __device__ __forceinline__ void multiply() {
    float first[kTokens / 2];
    float second[kTokens / 2];
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) {
      first[i] = 0.0F;
      second[i] = 0.0F;
    }
    int before = -1;
#pragma unroll 1
    for (int step = 0; step < shape_.k_steps; ++step) {
      wait_barrier(&full_[at_.stage], at_.parity);
      const uint32_t stage = shared_address(shared_ + at_.stage * L::kStageBytes);
      const uint32_t rows = stage + group_ * 64 * 128;
      begin_products();
#pragma unroll
      for (int k = 0; k < kStepValues / 16; ++k) {
        const uint64_t x = rows_along_k(stage + 2 * kBoxBytes + k * 32);
        multiply_tokens<kTokens>(first, rows_along_k(rows + k * 32), x);
        multiply_tokens<kTokens>(second, rows_along_k(rows + kBoxBytes + k * 32), x);
      }
      close_products();
      products_done<1>();  // those of the stage before
      if (before >= 0 && thread_ == 0) {
        arrive(&empty_[before]);
      }
      before = at_.stage;
      at_.next<L::kStages>();
    }
    products_done<0>();
    hold(first);
    hold(second);
    if (thread_ == 0) {
      arrive(&empty_[before]);
    }
    finish<kTokens>(first, second);
  }

  // Results of a thread: rows lane / 4 and 8 further of its warp's 16, tokens 8 j + lane % 4 * 2
  // and the next one.
  template <int kTokens>
  __device__ __forceinline__ void finish(float (&first)[kTokens / 2],
                                         float (&second)[kTokens / 2]) {
    const int row = row_tile_ * shape_.tile_rows + group_ * 64 + thread_ / 32 * 16;
    add_bias<kTokens>(first, row);
    add_bias<kTokens>(second, row + shape_.second);
    if (args_.is_first) {
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) {
        first[i] = activate(args_.activation, args_.swiglu_limit, first[i], second[i]);
      }
      store<kTokens>(first, row);
    } else {
      store<kTokens>(first, row);
      store<kTokens>(second, row + shape_.second);
    }
  }

  template <int kTokens>
  __device__ __forceinline__ void add_bias(float (&sums)[kTokens / 2], int row) {
    if (args_.weight.bias == nullptr) {
      return;
    }
    const float* bias = args_.weight.bias + static_cast<int64_t>(expert_) * shape_.expert_rows;
    const int at = row + thread_ % 32 / 4;
    const float low = at < shape_.expert_rows ? bias[at] : 0.0F;
    const float high = at + 8 < shape_.expert_rows ? bias[at + 8] : 0.0F;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      sums[j * 4] += low;
      sums[j * 4 + 1] += low;
      sums[j * 4 + 2] += high;
      sums[j * 4 + 3] += high;
    }
  }

  // 16 rows of results to 16 neighbouring values of each token's row, 16 tokens at a time.
  template <int kTokens>
  __device__ __forceinline__ void store(const float (&sums)[kTokens / 2], int row) {
    uint8_t* scratch = shared_ + L::kScratch + (group_ * 4 + thread_ / 32) * kScratchBytes;
    const int lane = thread_ % 32;
    // Matrix i of four: rows of results 8 (i % 2), tokens 8 (i / 2); this lane names one of its
    // rows.
    const uint32_t mine =
        shared_address(scratch + (lane / 16 * 8 + lane % 8) * kScratchPitch + lane / 8 % 2 * 16);
    const int token = lane / 2;
    const int column = row + lane % 2 * 8;
    uint16_t* out = args_.out + static_cast<int64_t>(begin_ + token) * shape_.width + column;
#pragma unroll
    for (int j = 0; j < kTokens / 8; j += 2) {
      const uint32_t words[4] = {
          pack_bf16(sums[j * 4], sums[j * 4 + 1]), pack_bf16(sums[j * 4 + 2], sums[j * 4 + 3]),
          pack_bf16(sums[j * 4 + 4], sums[j * 4 + 5]), pack_bf16(sums[j * 4 + 6], sums[j * 4 + 7])};
      asm volatile(
          "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(mine),
          "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
          : "memory");
      __syncwarp();
      const Vec16 value = load16(scratch + token * kScratchPitch + lane % 2 * 16);
      if (j * 8 + token < count_ && column < shape_.width) {
        store16(out + static_cast<int64_t>(j * 8) * shape_.width, value);
      }
      __syncwarp();
    }
  }

  const GroupedProductArgs& args_;
  const Shape& shape_;
  uint8_t* shared_;
  uint64_t* full_;
  uint64_t* empty_;
  const int group_;
  const int thread_;
  Position at_;
  int row_tile_ = 0;
  int expert_ = 0;
  int begin_ = 0;
  int count_ = 0;
};

template <class L>
__global__ void __launch_bounds__(kThreads, 1)
    grouped_kernel(const GroupedProductArgs args, const Shape shape,
                   const __grid_constant__ Maps maps) {
  extern __shared__ __align__(1024) uint8_t shared[];
  auto* full = reinterpret_cast<uint64_t*>(shared + L::kBarriers);
  uint64_t* empty = full + L::kStages;
  if (threadIdx.x == 0) {
    for (int i = 0; i < L::kStages; ++i) {
      init_barrier(&full[i], 1);
      init_barrier(&empty[i], 2);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    publish_shared();
  }
  __syncthreads();
  wait_previous();
  allow_next();
  const int num_tiles = __ldcg(args.plan.num_tasks) * shape.row_tiles;
  if (threadIdx.x < kGroupThreads) {
    shrink_registers<40>();
    if (threadIdx.x == 0) {
      produce<L>(args, shape, maps, shared, full, empty, num_tiles);
    }
  } else {
    grow_registers<232>();
    Multiplier<L> multiplier(args, shape, shared, full, empty);
    for (int t = static_cast<int>(blockIdx.x); t < num_tiles; t += static_cast<int>(gridDim.x)) {
      multiplier.run(t);
    }
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

bool make_map(const void* data, int64_t rows, int64_t cols, int box_rows, CUtensorMap* map) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(cols) * 2};
  const cuuint32_t box[2] = {kStepValues, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  return encoder()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), sizes,
                   strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <class L>
DeviceStatus launch_grouped(const GroupedProductArgs& args, DeviceStream stream) {
  const ExpertMatrix& weight = args.weight;
  const int64_t width = args.is_first ? weight.rows / 2 : weight.rows;
  const int tile_rows = args.is_first ? kBoxRows : 2 * kBoxRows;
  const Shape shape{.expert_rows = static_cast<int>(weight.rows),
                    .tile_rows = tile_rows,
                    .second = args.is_first ? static_cast<int>(width) : kBoxRows,
                    .row_tiles = static_cast<int>((width + tile_rows - 1) / tile_rows),
                    .k_steps = static_cast<int>((weight.cols + kStepValues - 1) / kStepValues),
                    .width = static_cast<int>(width)};
  Maps maps{};
  if (!make_map(weight.values, args.num_experts * weight.rows, weight.cols, kBoxRows,
                &maps.weight) ||
      !make_map(args.x, args.num_pairs, weight.cols, kXBoxRows, &maps.x)) {
    return "grouped_product: no tensor map";
  }
  const auto kernel = grouped_kernel<L>;
  static const cudaError_t raised =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, L::kBytes);
  if (raised != cudaSuccess) {
    return status_of(raised);
  }
  return launch_chained(kernel,
                        {.grid = dim3(static_cast<unsigned>(multiprocessor_count())),
                         .block = dim3(kThreads),
                         .shared_bytes = L::kBytes,
                         .stream = static_cast<cudaStream_t>(stream)},
                        args, shape, maps);
}

}  // namespace

int grouped_tokens_of_task(const FusedExpertsArgs& args) {
  constexpr int64_t kMostRows = 0x7fffff00;
  const bool fits =
      args.num_experts * std::max(args.gate_up.rows, args.down.rows) < kMostRows;
  if (!fits || !device_is_hopper() || encoder() == nullptr) {
    return 0;
  }
  return args.num_tokens * args.top_k <= 32 * args.num_experts ? 64 : 128;
}

DeviceStatus grouped_product(const GroupedProductArgs& args, DeviceStream stream) {
  return args.tokens_of_task == 64 ? launch_grouped<Layout<64>>(args, stream)
                                   : launch_grouped<Layout<128>>(args, stream);
}

}  // namespace atom::gpu
