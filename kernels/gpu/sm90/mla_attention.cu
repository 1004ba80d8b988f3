// Latent attention for Hopper: a block takes 64 rows (token, head) of one sequence. A warp brings
// tiles of 64 cache rows by bulk tensor copies, once for keys and values both, a tile ahead. One
// warpgroup computes scores and weights; it and a second one sum half of the value columns each.
// The weights go from one to the other as registers: both hold the same rows of a product.
// 512 + 64 values of bf16, blocks of 16 tokens or more; mla/attention.cu takes the rest.
#include "kernels/gpu/attention/mma.h"
#include "kernels/gpu/mla/hopper.h"
#include "kernels/gpu/sm90/hopper.h"

namespace atom::gpu {
namespace {

using namespace sm90;

constexpr int kRank = 512;
constexpr int kRowValues = 576;
constexpr int kKeys = 64;                 // of a tile
constexpr int kPanels = kRowValues / 64;  // of 64 columns
constexpr int kPanelBytes = 64 * 128;     // of 64 rows
constexpr int kTileBytes = kPanels * kPanelBytes;
constexpr int kStages = 2;
constexpr int kBoxRows = 16;
constexpr int kGroupThreads = 128;
constexpr int kThreads = 3 * kGroupThreads;

struct Control {
  uint4 weights[4][kGroupThreads];  // of a tile: 16 values along k each
  float2 factors[kGroupThreads];    // of rows lane / 4 and 8 further
  uint64_t full[kStages];
  uint64_t empty[kStages];
  uint64_t weights_full;
  uint64_t weights_empty;
};
// queries, tiles [kStages], control
constexpr int kTiles = kTileBytes;
constexpr int kControl = kTiles + kStages * kTileBytes;
constexpr int kSharedBytes = kControl + static_cast<int>(sizeof(Control));
static_assert(kSharedBytes <= 227 * 1024);

struct Stage {
  int index = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void next() {
    index ^= 1;
    phase ^= index == 0 ? 1 : 0;
  }
};

// Which tiles of keys a block takes.
struct Keys {
  int end;  // of the keys that any of its rows sees
  int first_tile;
  int last_tile;
  __device__ Keys(const MlaGrid& grid, const MlaTile& tile) : end(tile.position + tile.num_tokens) {
    const int tiles = (end + kKeys - 1) / kKeys;
    const int share = (tiles + grid.splits - 1) / grid.splits;
    first_tile = static_cast<int>(blockIdx.z) * share;
    last_tile = min(tiles, first_tile + share);
  }
};

// One warp.
__device__ void bring_tiles(const MlaAttentionArgs& args, const MlaTile& tile, const Keys& keys,
                            const CUtensorMap* map, uint8_t* shared) {
  auto* control = reinterpret_cast<Control*>(shared + kControl);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const auto size = static_cast<int>(args.metadata.block_size);
  const int32_t* table =
      args.metadata.block_tables + tile.sequence * args.metadata.block_table_stride;
  constexpr int kCopies = kPanels * (kKeys / kBoxRows);
  constexpr int kPerLane = (kCopies + kLanes - 1) / kLanes;
  Stage stage;
  for (int i = keys.first_tile; i < keys.last_tile; ++i, stage.next()) {
    int rows[kPerLane];  // looked up while the tile is still in use
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int key = i * kKeys + (lane + j * kLanes) / kPanels * kBoxRows;
      // What lies outside arrives as zeros.
      rows[j] = key < keys.end ? table[key / size] * size + key % size : 0x7ffffff0;
    }
    wait_barrier(&control->empty[stage.index], stage.phase ^ 1);
    uint64_t* full = &control->full[stage.index];
    if (lane == 0) {
      expect_bytes(full, kTileBytes);
    }
    warp_sync();
    uint8_t* to = shared + kTiles + stage.index * kTileBytes;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int copy = lane + j * kLanes;
      const int panel = copy % kPanels;
      if (copy < kCopies) {
        copy_box(to + panel * kPanelBytes + copy / kPanels * kBoxRows * 128, map, panel * 64,
                 rows[j], full);
      }
    }
  }
}

// A warpgroup that multiplies: half of the value columns.
class Half {
 public:
  __device__ Half(const MlaAttentionArgs& args, const MlaGrid& grid, const MlaTile& tile,
                  const Keys& keys, uint8_t* shared)
      : args_(args),
        grid_(grid),
        tile_(tile),
        keys_(keys),
        shared_(shared),
        control_(reinterpret_cast<Control*>(shared + kControl)),
        index_(static_cast<int>(threadIdx.x) / kGroupThreads),
        thread_(static_cast<int>(threadIdx.x) % kGroupThreads),
        scale_(args.scale * kLog2E) {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
#pragma unroll
      for (int i = 0; i < 64; ++i) {
        out_[part][i] = 0.0F;
      }
    }
  }

  // Both warpgroups.
  __device__ void load_query() {
    for (int i = static_cast<int>(threadIdx.x); i < 64 * (kRowValues / 8); i += 2 * kGroupThreads) {
      const int row = i / (kRowValues / 8);
      const int piece = i % (kRowValues / 8);  // of 8 values
      uint4 values = {0, 0, 0, 0};
      if (valid(row)) {
        values =
            *reinterpret_cast<const uint4*>(args_.query + step_row(row) * kRowValues + piece * 8);
      }
      *reinterpret_cast<uint4*>(shared_ + piece / 8 * kPanelBytes + row * 128 +
                                ((piece % 8) ^ (row % 8)) * 16) = values;
    }
    publish_shared();
  }

  // The warpgroup that also computes scores.
  __device__ void weigh_and_sum() {
    float top[2] = {kLowest, kLowest};
    float total[2] = {0.0F, 0.0F};  // this lane's part
    uint32_t round = 0;
    Stage stage;
    for (int i = keys_.first_tile; i < keys_.last_tile; ++i, stage.next()) {
      float scores[32];
      wait_barrier(&control_->full[stage.index], stage.phase);
      multiply_keys(stage.index, scores);
      const int first_key = i * kKeys;
      if (first_key + kKeys - 1 > tile_.position) {
        hide_future(first_key, scores);
      }
      float factor[2];
      weigh(scores, top, total, factor);
      uint32_t weights[4][4];
#pragma unroll
      for (int step = 0; step < 4; ++step) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          weights[step][j] = PairBf16::pack(scores[step * 8 + j * 2], scores[step * 8 + j * 2 + 1]);
        }
      }
      if (first_key + kKeys > keys_.end) {
        clear_behind(stage.index, keys_.end - first_key);
      }
      wait_barrier(&control_->weights_empty, round ^ 1);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        control_->weights[step][thread_] = {weights[step][0], weights[step][1], weights[step][2],
                                            weights[step][3]};
      }
      control_->factors[thread_] = make_float2(factor[0], factor[1]);
      signal(&control_->weights_full);
      round ^= 1;
      sum_values(stage.index, weights, factor[0], factor[1]);
    }
    finish(top, total, round);
  }

  // The other one.
  __device__ void sum() {
    uint32_t round = 0;
    Stage stage;
    for (int i = keys_.first_tile; i < keys_.last_tile; ++i, stage.next()) {
      wait_barrier(&control_->full[stage.index], stage.phase);
      wait_barrier(&control_->weights_full, round);
      uint32_t weights[4][4];
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const uint4 from = control_->weights[step][thread_];
        weights[step][0] = from.x;
        weights[step][1] = from.y;
        weights[step][2] = from.z;
        weights[step][3] = from.w;
      }
      const float2 factor = control_->factors[thread_];
      signal(&control_->weights_empty);
      round ^= 1;
      sum_values(stage.index, weights, factor.x, factor.y);
    }
    wait_barrier(&control_->weights_full, round);
    const float2 factor = control_->factors[thread_];
    store(factor.x, factor.y);
  }

 private:
  __device__ int row_of(int half) const {
    return thread_ / kLanes * 16 + half * 8 + thread_ % kLanes / 4;
  }
  __device__ bool valid(int row) const {
    return row / grid_.tile_heads < tile_.num_tokens &&
           tile_.first_head + row % grid_.tile_heads < args_.shape.num_heads;
  }
  // Of the step's rows [num_tokens, num_heads].
  __device__ int64_t step_row(int row) const {
    return (int64_t{tile_.first_token} + row / grid_.tile_heads) * args_.shape.num_heads +
           tile_.first_head + row % grid_.tile_heads;
  }
  // One arrival a warp, after all its lanes.
  __device__ __forceinline__ void signal(uint64_t* barrier) const {
    warp_sync();
    if (thread_ % kLanes == 0) {
      arrive(barrier);
    }
  }

  __device__ __forceinline__ void multiply_keys(int stage, float (&scores)[32]) {
    const uint32_t query = shared_address(shared_);
    const uint32_t keys = query + kTiles + stage * kTileBytes;
    hold(scores);
    begin_products();
#pragma unroll
    for (int step = 0; step < kRowValues / 16; ++step) {
      const int at = step / 4 * kPanelBytes + step % 4 * 32;
      multiply_64(scores, rows_along_k(query + at), rows_along_k(keys + at), step > 0);
    }
    close_products();
    products_done<0>();
    hold(scores);
  }

  __device__ __forceinline__ void hide_future(int first_key, float (&scores)[32]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int position = tile_.position + row_of(half) / grid_.tile_heads;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (first_key + n * 8 + thread_ % 4 * 2 + i > position) {
            scores[n * 4 + half * 2 + i] = negative_infinity();
          }
        }
      }
    }
  }

  // Scores become weights; what was summed before has to be multiplied by `factor`.
  __device__ __forceinline__ void weigh(float (&scores)[32], float (&top)[2], float (&total)[2],
                                        float (&factor)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = top[half];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        most = fmaxf(most, fmaxf(scores[n * 4 + half * 2], scores[n * 4 + half * 2 + 1]));
      }
      most = fmaxf(most, shuffle_xor(most, 1));
      most = fmaxf(most, shuffle_xor(most, 2));
      factor[half] = fast_exp2((top[half] - most) * scale_);
      top[half] = most;
      const float offset = most * scale_;
      float sum = 0.0F;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[n * 4 + half * 2 + i];
          score = fast_exp2(score * scale_ - offset);
          sum += score;
        }
      }
      total[half] = total[half] * factor[half] + sum;
    }
  }

  // Rows from `first` to the end of its box lie behind the sequence's end and may hold anything,
  // even NaN, which a weight of zero would not remove.
  __device__ void clear_behind(int stage, int first) {
    const int count = (kBoxRows - first % kBoxRows) % kBoxRows * 8;  // of 16 bytes, in a panel
    uint8_t* rows = shared_ + kTiles + stage * kTileBytes + first * 128;
    for (int i = thread_; i < count * (kRank / 64); i += kGroupThreads) {
      *reinterpret_cast<uint4*>(rows + i / count * kPanelBytes + i % count * 16) = {0, 0, 0, 0};
    }
    publish_shared();
    warpgroup_barrier(1);
  }

  __device__ __forceinline__ void sum_values(int stage, const uint32_t (&weights)[4][4],
                                             float upper, float lower) {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
#pragma unroll
      for (int i = 0; i < 64; ++i) {
        out_[part][i] *= i / 2 % 2 == 0 ? upper : lower;
      }
      hold(out_[part]);
    }
    const uint32_t values =
        shared_address(shared_) + kTiles + stage * kTileBytes + index_ * 4 * kPanelBytes;
    begin_products();
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        multiply_rows(out_[part], weights[step],
                      rows_along_n(values + part * 2 * kPanelBytes + step * 16 * 128, kPanelBytes));
      }
    }
    close_products();
    products_done<0>();
    hold(out_[0]);
    hold(out_[1]);
    signal(&control_->empty[stage]);
  }

  // Tells the other warpgroup the factors of the result, which need the sums of all weights.
  __device__ void finish(const float (&top)[2], const float (&total)[2], uint32_t round) {
    float factor[2] = {1.0F, 1.0F};
    const int64_t rows = args_.metadata.num_tokens * args_.shape.num_heads;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = total[half];
      sum += shuffle_xor(sum, 1);
      sum += shuffle_xor(sum, 2);
      if (grid_.splits == 1) {
        factor[half] = sum > 0.0F ? 1.0F / sum : 0.0F;
      } else if (thread_ % 4 == 0 && valid(row_of(half))) {
        float* state = args_.partials + grid_.splits * rows * kRank +
                       (static_cast<int64_t>(blockIdx.z) * rows + step_row(row_of(half))) * 2;
        state[0] = sum > 0.0F ? top[half] * scale_ : negative_infinity();
        state[1] = sum;
      }
    }
    wait_barrier(&control_->weights_empty, round ^ 1);
    control_->factors[thread_] = make_float2(factor[0], factor[1]);
    signal(&control_->weights_full);
    store(factor[0], factor[1]);
  }

  // To the result, or to the sums of this split: [splits, num_tokens * num_heads, rank].
  __device__ void store(float upper, float lower) const {
    const int64_t rows = args_.metadata.num_tokens * args_.shape.num_heads;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(half);
      if (!valid(row)) {
        continue;
      }
      const float factor = half == 0 ? upper : lower;
      const int column = index_ * (kRank / 2) + thread_ % 4 * 2;
      uint16_t* out = args_.out + step_row(row) * kRank + column;
      float* sums = args_.partials +
                    (static_cast<int64_t>(blockIdx.z) * rows + step_row(row)) * kRank + column;
#pragma unroll
      for (int part = 0; part < 2; ++part) {
#pragma unroll
        for (int n = 0; n < 16; ++n) {
          const float a = out_[part][n * 4 + half * 2] * factor;
          const float b = out_[part][n * 4 + half * 2 + 1] * factor;
          if (grid_.splits == 1) {
            *reinterpret_cast<uint32_t*>(out + part * 128 + n * 8) = PairBf16::pack(a, b);
          } else {
            *reinterpret_cast<float2*>(sums + part * 128 + n * 8) = make_float2(a, b);
          }
        }
      }
    }
  }

  const MlaAttentionArgs& args_;
  const MlaGrid& grid_;
  const MlaTile& tile_;
  const Keys& keys_;
  uint8_t* shared_;
  Control* control_;
  int index_;
  int thread_;
  float scale_;
  float out_[2][64];
};

__global__ void __launch_bounds__(kThreads, 1)
    mla_hopper_kernel(const __grid_constant__ MlaAttentionArgs args,
                      const __grid_constant__ MlaGrid grid,
                      const __grid_constant__ CUtensorMap map) {
  extern __shared__ __align__(1024) uint8_t shared[];
  auto* control = reinterpret_cast<Control*>(shared + kControl);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      init_barrier(&control->full[i], 1);
      init_barrier(&control->empty[i], 2 * kGroupThreads / kLanes);
    }
    init_barrier(&control->weights_full, kGroupThreads / kLanes);
    init_barrier(&control->weights_empty, kGroupThreads / kLanes);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    publish_shared();
  }
  wait_previous();
  allow_next();
  const MlaTile tile = MlaTile::find(args.metadata, grid, static_cast<int>(blockIdx.x),
                                     static_cast<int>(blockIdx.y));
  if (tile.num_tokens <= 0) {
    return;
  }
  const Keys keys(grid, tile);
  __syncthreads();  // the barriers are there
  if (threadIdx.x >= 2 * kGroupThreads) {
    shrink_registers<24>();
    if (threadIdx.x < 2 * kGroupThreads + kLanes) {
      bring_tiles(args, tile, keys, &map, shared);
    }
  } else {
    grow_registers<240>();
    Half half(args, grid, tile, keys, shared);
    half.load_query();
    asm volatile("bar.sync 2, 256;" ::: "memory");  // of both warpgroups
    if (threadIdx.x < kGroupThreads) {
      half.weigh_and_sum();
    } else {
      half.sum();
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

int64_t cache_rows(const MlaAttentionArgs& args) {
  return args.cache.num_blocks * args.cache.block_size;
}

}  // namespace

bool mla_hopper_takes(const MlaAttentionArgs& args) {
  return device_is_hopper() && encoder() != nullptr && args.cache.dtype == DType::kBF16 &&
         args.shape.rank == kRank && args.shape.rank + args.shape.rope == kRowValues &&
         args.metadata.block_size % kBoxRows == 0 && cache_rows(args) < 0x7ffffff0;
}

DeviceStatus launch_mla_hopper(const MlaAttentionArgs& args, const MlaGrid& grid,
                               int64_t token_tiles, DeviceStream stream) {
  CUtensorMap map{};
  const cuuint64_t sizes[2] = {kRowValues, static_cast<cuuint64_t>(cache_rows(args))};
  const cuuint64_t strides[1] = {kRowValues * 2};
  const cuuint32_t box[2] = {64, kBoxRows};
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
      args, grid, map);
}

}  // namespace atom::gpu
