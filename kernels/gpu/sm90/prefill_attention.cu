// Prefill attention for Hopper: a block of 128 query rows of one kv head (tokens x heads of its
// group), 64 to each of two warpgroups that multiply; a third brings tiles of 128 keys and values
// from the paged cache by bulk tensor copies, two tiles ahead. A warpgroup multiplies the keys of
// the next tile and the values of this one while it exponentiates. bf16 cache, head dims 64 and
// 128; the portable sibling (attention/prefill_body.h) takes the rest.
#include <type_traits>

#include "kernels/gpu/attention/instances.h"
#include "kernels/gpu/attention/mma.h"
#include "kernels/gpu/attention/prefill_tasks.h"
#include "kernels/gpu/sm90/hopper.h"

namespace atom::gpu {
namespace {

using namespace sm90;

constexpr int kGroupThreads = 128;
constexpr int kConsumers = 2;
constexpr int kThreads = kGroupThreads * (1 + kConsumers);
constexpr int kRows = 64 * kConsumers;
constexpr int kKeys = 128;
constexpr int kStages = 2;
constexpr int kTasks = 2;                   // whose queries are in shared memory
constexpr int kBoxRows = 16;                // of any block size
constexpr int kPanelBytes = kKeys * 128;    // 128 rows of 64 dims
constexpr int kQueryPanelBytes = 64 * 128;  // of a warpgroup

template <int kHeadDim>
struct Layout {
  static constexpr int kPanels = kHeadDim / 64;
  static constexpr int kTileBytes = kPanels * kPanelBytes;
  static constexpr int kQueryBytes = kConsumers * kPanels * kQueryPanelBytes;  // of a task
  // queries, keys [kStages], values [kStages], barriers, starts
  static constexpr int kKeys = kTasks * kQueryBytes;
  static constexpr int kValues = kKeys + kStages * kTileBytes;
  static constexpr int kBarriers = kValues + kStages * kTileBytes;
  static constexpr int kBytes = kBarriers + 512;
};

struct Barriers {
  uint64_t query_full[kTasks];
  uint64_t query_empty[kTasks];
  uint64_t keys_full[kStages];
  uint64_t keys_empty[kStages];
  uint64_t values_full[kStages];
  uint64_t values_empty[kStages];
  RowTile tasks[kTasks];
};

// Position in a ring: of tiles, or of tasks.
template <int kSlots>
struct Ring {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void next() {
    if (++stage == kSlots) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// What keys a task's rows see.
struct KeyRange {
  int begin;
  int end;
  __device__ KeyRange(const PagedAttentionArgs& args, const RowTile& tile) {
    const int group = args.num_heads / args.num_kv_heads;
    const int last_row =
        (tile.first_row + kRows < tile.num_rows ? tile.first_row + kRows : tile.num_rows) - 1;
    const int before = tile.context_len - tile.query_len;
    end = before + last_row / group + 1;
    const int first = before + tile.first_row / group - args.sliding_window + 1;
    begin = args.sliding_window > 0 && first > 0 ? first / kKeys * kKeys : 0;
  }
};

// Tasks in turn, every other round backwards: tasks get shorter along a sequence.
__device__ __forceinline__ int task_of(int round) {
  const int blocks = static_cast<int>(gridDim.x);
  const int block = static_cast<int>(blockIdx.x);
  return round * blocks + (round % 2 == 0 ? block : blocks - 1 - block);
}

template <int kHeadDim>
__device__ __forceinline__ void bring_tile(const PagedAttentionArgs& args, const RowTile& tile,
                                           const CUtensorMap* map, int key, uint8_t* to,
                                           uint64_t* full, int lane) {
  using L = Layout<kHeadDim>;
  if (lane == 0) {
    expect_bytes(full, L::kTileBytes);
  }
  warp_sync();
  if (lane < L::kPanels * (kKeys / kBoxRows)) {
    const int box = lane / L::kPanels;
    const int panel = lane % L::kPanels;
    const int first = key + box * kBoxRows;
    const int size = static_cast<int>(args.cache.block_size);
    int row = 0x7ffffff0;  // outside: zeros
    if (first < tile.context_len) {
      const int block =
          args.metadata
              .block_tables[tile.sequence * args.metadata.block_table_stride + first / size];
      row = (block * args.num_kv_heads + tile.kv_head) * size + first % size;
    }
    copy_box(to + panel * kPanelBytes + box * kBoxRows * 128, map, panel * 64, row, full);
  }
}

// The queries of a task, where a tile's rows are whole tokens: both warpgroups', panel by panel.
template <int kHeadDim>
__device__ __forceinline__ void bring_query(const PagedAttentionArgs& args, const RowTile& tile,
                                            const CUtensorMap* map, uint8_t* to, uint64_t* full) {
  using L = Layout<kHeadDim>;
  const int group = args.num_heads / args.num_kv_heads;
#pragma unroll
  for (int i = 0; i < kConsumers * L::kPanels; ++i) {
    const int token = tile.query_start + (tile.first_row + i / L::kPanels * 64) / group;
    copy_box_3d(to + i * kQueryPanelBytes, map, i % L::kPanels * 64, tile.kv_head * group, token,
                full);
  }
}

struct TensorMaps {
  CUtensorMap query;
  CUtensorMap keys;
  CUtensorMap values;
};

template <int kHeadDim>
__device__ void produce(const PagedAttentionArgs& args, const TensorMaps& maps, bool query_boxes,
                        uint8_t* shared, const int* starts, int total) {
  using L = Layout<kHeadDim>;
  auto* barriers = reinterpret_cast<Barriers*>(shared + L::kBarriers);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  Ring<kStages> ring;
  Ring<kTasks> tasks;
  for (int round = 0; round * static_cast<int>(gridDim.x) < total; ++round) {
    if (task_of(round) >= total) {
      continue;
    }
    const RowTile tile = row_tile<kRows>(args, starts, task_of(round));
    wait_barrier(&barriers->query_empty[tasks.stage], tasks.phase ^ 1);
    if (lane == 0) {
      barriers->tasks[tasks.stage] = tile;
      expect_bytes(&barriers->query_full[tasks.stage], query_boxes ? L::kQueryBytes : 0);
      if (query_boxes) {
        bring_query<kHeadDim>(args, tile, &maps.query, shared + tasks.stage * L::kQueryBytes,
                              &barriers->query_full[tasks.stage]);
      }
    }
    warp_sync();
    tasks.next();
    const KeyRange range(args, tile);
    for (int key = range.begin; key < range.end; key += kKeys) {
      wait_barrier(&barriers->keys_empty[ring.stage], ring.phase ^ 1);
      bring_tile<kHeadDim>(args, tile, &maps.keys, key,
                           shared + L::kKeys + ring.stage * L::kTileBytes,
                           &barriers->keys_full[ring.stage], lane);
      wait_barrier(&barriers->values_empty[ring.stage], ring.phase ^ 1);
      bring_tile<kHeadDim>(args, tile, &maps.values, key,
                           shared + L::kValues + ring.stage * L::kTileBytes,
                           &barriers->values_full[ring.stage], lane);
      ring.next();
    }
  }
}

// One of the warpgroups that multiply.
template <int kHeadDim>
class Consumer {
 public:
  using L = Layout<kHeadDim>;
  static constexpr int kOut = kHeadDim / 2;  // registers of 64 rows' results

  __device__ Consumer(const PagedAttentionArgs& args, bool query_boxes, uint8_t* shared)
      : args_(args),
        query_boxes_(query_boxes),
        barriers_(reinterpret_cast<Barriers*>(shared + L::kBarriers)),
        index_(static_cast<int>(threadIdx.x) / kGroupThreads - 1),
        thread_(static_cast<int>(threadIdx.x) % kGroupThreads),
        queries_(shared + index_ * L::kPanels * kQueryPanelBytes),
        keys_(shared_address(shared + L::kKeys)),
        values_tile_(shared + L::kValues),
        values_(shared_address(shared + L::kValues)),
        group_(args.num_heads / args.num_kv_heads),
        scale_(args.scale * kLog2E) {}

  __device__ void run() {
    wait_barrier(&barriers_->query_full[tasks_ring_.stage], tasks_ring_.phase);
    tile_ = barriers_->tasks[tasks_ring_.stage];
    query_ = queries_ + tasks_ring_.stage * L::kQueryBytes;
    const KeyRange range(args_, tile_);
    max_[0] = max_[1] = kLowest;
    total_[0] = total_[1] = 0.0F;
#pragma unroll
    for (int i = 0; i < kOut; ++i) {
      out_[i] = 0.0F;
    }
    if (range.begin >= range.end) {  // a padding sequence
      release_query();
      return store();
    }
    if (!query_boxes_) {
      load_query();
    }
    float scores[64];
    uint32_t weights[8][4];
    float factor[2];
    begin_scores(scores);
    products_done<0>();
    hold(scores);
    release_keys();
    weigh(range.begin, scores, factor);
    pack(scores, weights);
    for (int key = range.begin + kKeys; key < range.end; key += kKeys) {
      begin_scores(scores);
      begin_sums(key - kKeys, weights);
      products_done<1>();
      hold(scores);
      release_keys();
      weigh(key, scores, factor);
      products_done<0>();
      hold(out_);
      release_values();
#pragma unroll
      for (int i = 0; i < kOut; ++i) {
        out_[i] *= factor[i / 2 % 2];
      }
      pack(scores, weights);
    }
    release_query();
    begin_sums((range.end - 1) / kKeys * kKeys, weights);
    products_done<0>();
    hold(out_);
    release_values();
    store();
  }

 private:
  __device__ int row_of(int half) const {
    return tile_.first_row + index_ * 64 + thread_ / kLanes * 16 + half * 8 + thread_ % kLanes / 4;
  }
  __device__ int position_of(int row) const {
    return tile_.context_len - tile_.query_len + row / group_;
  }

  // 64 rows, in panels of 64 dims with the swizzle that products expect.
  __device__ void load_query() {
    constexpr int kChunks = kHeadDim / 8;
#pragma unroll
    for (int i = thread_; i < 64 * kChunks; i += kGroupThreads) {
      const int r = i / kChunks;
      const int chunk = i % kChunks;
      const int row = tile_.first_row + index_ * 64 + r;
      uint4 v = {0, 0, 0, 0};
      if (row < tile_.num_rows) {
        v = *reinterpret_cast<const uint4*>(
            args_.q + (tile_.query_start + row / group_) * args_.q_stride +
            (tile_.kv_head * group_ + row % group_) * kHeadDim + chunk * 8);
      }
      *reinterpret_cast<uint4*>(query_ + chunk / 8 * kQueryPanelBytes + r * 128 +
                                ((chunk % 8) ^ (r % 8)) * 16) = v;
    }
    publish_shared();
    warpgroup_barrier(1 + index_);
  }

  __device__ __forceinline__ void begin_scores(float (&scores)[64]) {
    wait_barrier(&barriers_->keys_full[keys_ring_.stage], keys_ring_.phase);
    const uint32_t keys = keys_ + keys_ring_.stage * L::kTileBytes;
    const uint32_t query = shared_address(query_);
    hold(scores);
    begin_products();
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      multiply_128(scores, rows_along_k(query + step / 4 * kQueryPanelBytes + step % 4 * 32),
                   rows_along_k(keys + step / 4 * kPanelBytes + step % 4 * 32), step > 0);
    }
    close_products();
  }

  // Rows from `first` to the end of its box lie behind the sequence's end and may hold anything,
  // even NaN, which a weight of zero would not remove. Both warpgroups write the same zeros.
  __device__ void clear_values(int first) {
    const int count = (kBoxRows - first % kBoxRows) % kBoxRows * 8;  // of 16 bytes, in a panel
    uint8_t* rows = values_tile_ + values_ring_.stage * L::kTileBytes + first * 128;
    for (int i = thread_; i < count * L::kPanels; i += kGroupThreads) {
      *reinterpret_cast<uint4*>(rows + i / count * kPanelBytes + i % count * 16) = {0, 0, 0, 0};
    }
    publish_shared();
    warpgroup_barrier(1 + index_);
  }

  __device__ __forceinline__ void begin_sums(int key, const uint32_t (&weights)[8][4]) {
    wait_barrier(&barriers_->values_full[values_ring_.stage], values_ring_.phase);
    if (key + kKeys > tile_.context_len) {
      clear_values(tile_.context_len - key);
    }
    const uint32_t values = values_ + values_ring_.stage * L::kTileBytes;
    hold(out_);
    begin_products();
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      multiply_rows(out_, weights[step], rows_along_n(values + step * 16 * 128, kPanelBytes));
    }
    close_products();
  }

  __device__ __forceinline__ void release_query() {
    warpgroup_barrier(1 + index_);  // every thread has read the task
    if (thread_ == 0) {
      arrive(&barriers_->query_empty[tasks_ring_.stage]);
    }
    tasks_ring_.next();
  }
  __device__ __forceinline__ void release_keys() {
    if (thread_ == 0) {
      arrive(&barriers_->keys_empty[keys_ring_.stage]);
    }
    keys_ring_.next();
  }
  __device__ __forceinline__ void release_values() {
    if (thread_ == 0) {
      arrive(&barriers_->values_empty[values_ring_.stage]);
    }
    values_ring_.next();
  }

  // Scores become weights; what was summed before has to be multiplied by `factor`.
  __device__ __forceinline__ void weigh(int key, float (&scores)[64], float (&factor)[2]) {
    const int first_row = tile_.first_row + index_ * 64 + thread_ / kLanes * 16;
    const bool masked =
        key + kKeys - 1 > position_of(first_row) ||
        (args_.sliding_window > 0 && key <= position_of(first_row + 15) - args_.sliding_window);
    if (masked) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int position = position_of(row_of(half));
        const int first = args_.sliding_window > 0 ? position - args_.sliding_window + 1 : 0;
#pragma unroll
        for (int n = 0; n < 16; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int at = key + n * 8 + thread_ % 4 * 2 + i;
            if (at > position || at < first) {
              scores[n * 4 + half * 2 + i] = negative_infinity();
            }
          }
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = max_[half];
#pragma unroll
      for (int n = 0; n < 16; ++n) {
        top = fmaxf(top, fmaxf(scores[n * 4 + half * 2], scores[n * 4 + half * 2 + 1]));
      }
      top = fmaxf(top, shuffle_xor(top, 1));
      top = fmaxf(top, shuffle_xor(top, 2));
      factor[half] = fast_exp2((max_[half] - top) * scale_);
      max_[half] = top;
      const float offset = top * scale_;
      float total = 0.0F;
#pragma unroll
      for (int n = 0; n < 16; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[n * 4 + half * 2 + i];
          score = fast_exp2(score * scale_ - offset);
          total += score;
        }
      }
      total_[half] = total_[half] * factor[half] + total;
    }
  }

  static __device__ __forceinline__ void pack(const float (&scores)[64],
                                              uint32_t (&weights)[8][4]) {
#pragma unroll
    for (int step = 0; step < 8; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights[step][i] = PairBf16::pack(scores[step * 8 + i * 2], scores[step * 8 + i * 2 + 1]);
      }
    }
  }

  __device__ void store() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(half);
      float total = total_[half];
      total += shuffle_xor(total, 1);
      total += shuffle_xor(total, 2);
      if (row >= tile_.num_rows) {
        continue;
      }
      const int head = tile_.kv_head * group_ + row % group_;
      float scale = 1.0F;
      if (args_.sinks != nullptr) {
        const float top = max_[half] * scale_;
        const float sink = args_.sinks[head] * kLog2E;
        const float higher = fmaxf(top, sink);
        scale = fast_exp2(top - higher);
        total = total * scale + fast_exp2(sink - higher);
      }
      scale = total > 0.0F ? scale / total : 0.0F;
      uint16_t* to =
          args_.out +
          (static_cast<int64_t>(tile_.query_start + row / group_) * args_.num_heads + head) *
              kHeadDim +
          thread_ % 4 * 2;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        *reinterpret_cast<uint32_t*>(to + n * 8) =
            PairBf16::pack(out_[n * 4 + half * 2] * scale, out_[n * 4 + half * 2 + 1] * scale);
      }
    }
  }

  const PagedAttentionArgs& args_;
  Barriers* barriers_;
  int index_;
  int thread_;
  bool query_boxes_;
  uint8_t* queries_;
  uint8_t* query_ = nullptr;  // of this task
  uint32_t keys_;
  uint8_t* values_tile_;
  uint32_t values_;
  int group_;
  float scale_;
  Ring<kStages> keys_ring_;
  Ring<kStages> values_ring_;
  Ring<kTasks> tasks_ring_;
  RowTile tile_;
  float max_[2];    // of rows lane / 4 and 8 further, as scores
  float total_[2];  // this lane's part
  float out_[kOut];
};

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_kernel(const PagedAttentionArgs args, const __grid_constant__ TensorMaps maps,
                   bool query_boxes) {
  using L = Layout<kHeadDim>;
  extern __shared__ __align__(1024) uint8_t shared[];
  auto* barriers = reinterpret_cast<Barriers*>(shared + L::kBarriers);
  int* starts = reinterpret_cast<int*>(shared + L::kBytes);
  wait_previous();
  const int total = sequence_starts(
      static_cast<int>(args.metadata.num_seqs), starts, reinterpret_cast<int*>(shared),
      [&](int s) { return args.num_kv_heads * row_tiles<kRows>(args, s); });
  if (threadIdx.x == 0) {
    for (int i = 0; i < kTasks; ++i) {
      init_barrier(&barriers->query_full[i], 1);
      init_barrier(&barriers->query_empty[i], kConsumers);
    }
    for (int i = 0; i < kStages; ++i) {
      init_barrier(&barriers->keys_full[i], 1);
      init_barrier(&barriers->values_full[i], 1);
      init_barrier(&barriers->keys_empty[i], kConsumers);
      init_barrier(&barriers->values_empty[i], kConsumers);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    publish_shared();
  }
  __syncthreads();
  if (threadIdx.x < kGroupThreads) {
    shrink_registers<24>();
    if (threadIdx.x < kLanes) {
      produce<kHeadDim>(args, maps, query_boxes, shared, starts, total);
    }
  } else {
    grow_registers<240>();
    Consumer<kHeadDim> consumer(args, query_boxes, shared);
    for (int round = 0; round * static_cast<int>(gridDim.x) < total; ++round) {
      if (task_of(round) < total) {
        consumer.run();
      }
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

// The cache as rows of head_dim values.
bool make_map(const PagedAttentionArgs& args, void* cache, CUtensorMap* map) {
  const cuuint64_t rows = static_cast<cuuint64_t>(args.cache.num_blocks) *
                          static_cast<cuuint64_t>(args.num_kv_heads * args.cache.block_size);
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(args.head_dim), rows};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(args.head_dim) * 2};
  const cuuint32_t box[2] = {64, kBoxRows};
  const cuuint32_t steps[2] = {1, 1};
  return encoder() != nullptr && rows < 0x7ffffff0U &&
         encoder()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, cache, sizes, strides, box, steps,
                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// The queries as [num_tokens, num_heads, head_dim]; a box is a warpgroup's rows.
bool make_query_map(const PagedAttentionArgs& args, CUtensorMap* map) {
  const int group = args.num_heads / args.num_kv_heads;
  if (64 % group != 0 || encoder() == nullptr) {
    return false;
  }
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(args.head_dim),
                               static_cast<cuuint64_t>(args.num_heads),
                               static_cast<cuuint64_t>(args.metadata.num_tokens)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(args.head_dim) * 2,
                                 static_cast<cuuint64_t>(args.q_stride) * 2};
  const cuuint32_t box[3] = {64, static_cast<cuuint32_t>(group),
                             static_cast<cuuint32_t>(64 / group)};
  const cuuint32_t steps[3] = {1, 1, 1};
  return encoder()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<uint16_t*>(args.q), sizes,
                   strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <int kHeadDim>
bool launch(const PagedAttentionArgs& args, void* stream) {
  TensorMaps maps{};
  if (!make_map(args, args.cache.k, &maps.keys) || !make_map(args, args.cache.v, &maps.values)) {
    return false;
  }
  const bool query_boxes = make_query_map(args, &maps.query);
  const auto kernel = prefill_kernel<kHeadDim>;
  constexpr int kBytes = Layout<kHeadDim>::kBytes;
  constexpr int kMostBytes = 227 * 1024;
  const int shared = kBytes + static_cast<int>(args.metadata.num_seqs + 1) * 4;
  static const bool allowed =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, kMostBytes) == cudaSuccess;
  if (!allowed || shared > kMostBytes) {
    return false;
  }
  return launch_chained(kernel,
                        {.grid = dim3(static_cast<unsigned>(multiprocessor_count())),
                         .block = dim3(kThreads),
                         .shared_bytes = static_cast<unsigned>(shared),
                         .stream = static_cast<cudaStream_t>(stream)},
                        args, maps, query_boxes) == nullptr;
}

}  // namespace

bool launch_prefill_sm90(const PagedAttentionArgs& args, void* stream) {
  static const bool hopper = [] {
    int device = 0;
    int major = 0;
    (void)cudaGetDevice(&device);
    (void)cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    return major == 9;
  }();
  if (!hopper || args.cache.dtype != DType::kBF16) {
    return false;
  }
  switch (args.head_dim) {
    case 64:
      return launch<64>(args, stream);
    case 128:
      return launch<128>(args, stream);
    default:
      return false;
  }
}

}  // namespace atom::gpu
