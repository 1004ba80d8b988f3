// What moves in the prefill kernel of prefill_attention.cu: the map of shared memory, the barriers,
// which keys a task needs, and the warps that bring queries, keys and values from the paged cache.
// A bf16 cache arrives by bulk tensor copies in the layout that products take; an e4m3 cache
// arrives as it is and is converted by the warpgroup that brings it. Not here: the products
// (prefill_consumer.h). Device code, sm_90a, C++20.
#pragma once

#include "kernels/gpu/attention/instances.h"
#include "kernels/gpu/attention/mma.h"
#include "kernels/gpu/attention/prefill_tasks.h"
#include "kernels/gpu/primitives/types.h"
#include "kernels/gpu/sm90/hopper.h"

namespace atom::gpu::sm90 {

constexpr int kGroupThreads = 128;
constexpr int kConsumers = 2;
constexpr int kThreads = kGroupThreads * (1 + kConsumers);
constexpr int kRows = 64 * kConsumers;
constexpr int kKeys = 128;
constexpr int kStages = 2;
constexpr int kTasks = 2;                   // whose queries are in shared memory
constexpr int kRawTiles = 2;                // of e4m3, on their way or being converted
constexpr int kBoxRows = 16;                // of any block size
constexpr int kPanelBytes = kKeys * 128;    // 128 rows of 64 dims
constexpr int kQueryPanelBytes = 64 * 128;  // of a warpgroup

template <int kHeadDim, bool kE4M3>
struct Layout {
  static constexpr int kDim = kHeadDim;
  static constexpr bool kConverts = kE4M3;  // the cache holds e4m3
  static constexpr int kPanels = kHeadDim / 64;
  static constexpr int kTileBytes = kPanels * kPanelBytes;
  static constexpr int kQueryBytes = kConsumers * kPanels * kQueryPanelBytes;  // of a task
  static constexpr int kRawBytes = kKeys * kHeadDim;                           // of a tile of e4m3
  // queries, keys [kStages], values [kStages], raw tiles [kRawTiles], barriers, starts
  static constexpr int kKeyTiles = kTasks * kQueryBytes;
  static constexpr int kValueTiles = kKeyTiles + kStages * kTileBytes;
  static constexpr int kRaw = kValueTiles + kStages * kTileBytes;
  static constexpr int kBarriers = kRaw + (kE4M3 ? kRawTiles * kRawBytes : 0);
  static constexpr int kBytes = kBarriers + 512;
};

struct Barriers {
  uint64_t query_full[kTasks];
  uint64_t query_empty[kTasks];
  uint64_t keys_full[kStages];
  uint64_t keys_empty[kStages];
  uint64_t values_full[kStages];
  uint64_t values_empty[kStages];
  uint64_t raw_full[kRawTiles];
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

struct TensorMaps {
  CUtensorMap query;
  CUtensorMap keys;
  CUtensorMap values;
};

// The row of the cache's tensor at which the 16 keys from `first` on begin.
__device__ __forceinline__ int cache_row(const PagedAttentionArgs& args, const RowTile& tile,
                                         int first) {
  if (first >= tile.context_len) {
    return 0x7ffffff0;  // outside: zeros
  }
  const int size = static_cast<int>(args.cache.block_size);
  const int64_t at = tile.sequence * args.metadata.block_table_stride + first / size;
  return (args.metadata.block_tables[at] * args.num_kv_heads + tile.kv_head) * size + first % size;
}

// A tile of a bf16 cache, panel by panel; by one warp.
template <class L>
__device__ __forceinline__ void bring_tile(const PagedAttentionArgs& args, const RowTile& tile,
                                           const CUtensorMap* map, int key, uint8_t* to,
                                           uint64_t* full) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  if (lane == 0) {
    expect_bytes(full, L::kTileBytes);
  }
  warp_sync();
  if (lane < L::kPanels * (kKeys / kBoxRows)) {
    const int box = lane / L::kPanels;
    const int panel = lane % L::kPanels;
    copy_box(to + panel * kPanelBytes + box * kBoxRows * 128, map, panel * 64,
             cache_row(args, tile, key + box * kBoxRows), full);
  }
}

// A tile of an e4m3 cache as it is, row by row; by one warp.
template <class L>
__device__ __forceinline__ void bring_raw_tile(const PagedAttentionArgs& args, const RowTile& tile,
                                               const CUtensorMap* map, int key, uint8_t* to,
                                               uint64_t* full) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  if (lane == 0) {
    expect_bytes(full, L::kRawBytes);
  }
  warp_sync();
  if (lane < kKeys / kBoxRows) {
    copy_box(to + lane * kBoxRows * L::kDim, map, 0, cache_row(args, tile, key + lane * kBoxRows),
             full);
  }
}

// Raw e4m3 rows to bf16 in swizzled panels; by the warpgroup.
template <class L>
__device__ __forceinline__ void convert_tile(const uint8_t* raw, uint8_t* to) {
  constexpr int kChunks = L::kDim / 16;  // of 16 values, in a row
  const int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
#pragma unroll 2
  for (int i = thread; i < kKeys * kChunks; i += kGroupThreads) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    const uint4 from = *reinterpret_cast<const uint4*>(raw + i * 16);
    const uint2 a = e4m3_to_bf16(from.x);
    const uint2 b = e4m3_to_bf16(from.y);
    const uint2 c = e4m3_to_bf16(from.z);
    const uint2 d = e4m3_to_bf16(from.w);
    uint8_t* panel = to + chunk / 4 * kPanelBytes + row * 128;
    const int first = chunk % 4 * 2;  // of the row's eight pieces of 16 bytes
    *reinterpret_cast<uint4*>(panel + (first ^ (row % 8)) * 16) = {a.x, a.y, b.x, b.y};
    *reinterpret_cast<uint4*>(panel + ((first + 1) ^ (row % 8)) * 16) = {c.x, c.y, d.x, d.y};
  }
}

// The queries of a task, where a tile's rows are whole tokens: both warpgroups', panel by panel.
template <class L>
__device__ __forceinline__ void bring_query(const PagedAttentionArgs& args, const RowTile& tile,
                                            const CUtensorMap* map, uint8_t* to, uint64_t* full) {
  const int group = args.num_heads / args.num_kv_heads;
#pragma unroll
  for (int i = 0; i < kConsumers * L::kPanels; ++i) {
    const int token = tile.query_start + (tile.first_row + i / L::kPanels * 64) / group;
    copy_box_3d(to + i * kQueryPanelBytes, map, i % L::kPanels * 64, tile.kv_head * group, token,
                full);
  }
}

// Hands a task's tile, and its queries where they come as boxes, to the warpgroups that multiply.
template <class L>
__device__ __forceinline__ void begin_task(const PagedAttentionArgs& args, const TensorMaps& maps,
                                           bool query_boxes, uint8_t* shared, const RowTile& tile,
                                           Ring<kTasks>& tasks) {
  auto* barriers = reinterpret_cast<Barriers*>(shared + L::kBarriers);
  wait_barrier(&barriers->query_empty[tasks.stage], tasks.phase ^ 1);
  if (threadIdx.x % kLanes == 0) {
    barriers->tasks[tasks.stage] = tile;
    expect_bytes(&barriers->query_full[tasks.stage], query_boxes ? L::kQueryBytes : 0);
    if (query_boxes) {
      bring_query<L>(args, tile, &maps.query, shared + tasks.stage * L::kQueryBytes,
                     &barriers->query_full[tasks.stage]);
    }
  }
  warp_sync();
  tasks.next();
}

// One warp brings tiles of a bf16 cache.
template <class L>
__device__ void produce(const PagedAttentionArgs& args, const TensorMaps& maps, bool query_boxes,
                        uint8_t* shared, const int* starts, int total) {
  auto* barriers = reinterpret_cast<Barriers*>(shared + L::kBarriers);
  Ring<kStages> ring;
  Ring<kTasks> tasks;
  for (int round = 0; round * static_cast<int>(gridDim.x) < total; ++round) {
    if (task_of(round) >= total) {
      continue;
    }
    const RowTile tile = row_tile<kRows>(args, starts, task_of(round));
    begin_task<L>(args, maps, query_boxes, shared, tile, tasks);
    const KeyRange range(args, tile);
    for (int key = range.begin; key < range.end; key += kKeys) {
      wait_barrier(&barriers->keys_empty[ring.stage], ring.phase ^ 1);
      bring_tile<L>(args, tile, &maps.keys, key, shared + L::kKeyTiles + ring.stage * L::kTileBytes,
                    &barriers->keys_full[ring.stage]);
      wait_barrier(&barriers->values_empty[ring.stage], ring.phase ^ 1);
      bring_tile<L>(args, tile, &maps.values, key,
                    shared + L::kValueTiles + ring.stage * L::kTileBytes,
                    &barriers->values_full[ring.stage]);
      ring.next();
    }
  }
}

// The tiles of all tasks of this block in the order in which they are multiplied: keys, then
// values, of 128 positions at a time.
class TileWalk {
 public:
  __device__ TileWalk(const PagedAttentionArgs& args, const int* starts, int total)
      : args_(args), starts_(starts), total_(total) {
    find_task();
  }
  __device__ bool done() const { return done_; }
  __device__ const RowTile& tile() const { return tile_; }
  __device__ int key() const { return key_; }
  __device__ bool values() const { return values_; }
  __device__ void next() {
    values_ = !values_;
    if (values_) {
      return;
    }
    key_ += kKeys;
    if (key_ >= end_) {
      ++round_;
      find_task();
    }
  }

 private:
  // The next round whose task has keys.
  __device__ void find_task() {
    for (;; ++round_) {
      if (round_ * static_cast<int>(gridDim.x) >= total_) {
        done_ = true;
        return;
      }
      if (task_of(round_) < total_) {
        tile_ = row_tile<kRows>(args_, starts_, task_of(round_));
        const KeyRange range(args_, tile_);
        key_ = range.begin;
        end_ = range.end;
        if (key_ < end_) {
          return;
        }
      }
    }
  }

  const PagedAttentionArgs& args_;
  const int* starts_;
  int total_;
  int round_ = 0;
  int key_ = 0;
  int end_ = 0;
  bool values_ = false;
  bool done_ = false;
  RowTile tile_;
};

// A warpgroup brings tiles of an e4m3 cache, two ahead, and converts them.
template <class L>
__device__ void produce_converted(const PagedAttentionArgs& args, const TensorMaps& maps,
                                  bool query_boxes, uint8_t* shared, const int* starts, int total) {
  auto* barriers = reinterpret_cast<Barriers*>(shared + L::kBarriers);
  const bool brings = threadIdx.x < kLanes;
  Ring<kStages> ring;
  Ring<kRawTiles> raw;
  Ring<kTasks> tasks;
  TileWalk ahead(args, starts, total);
  int ahead_stage = 0;
  const auto bring_next = [&] {
    if (!ahead.done()) {
      bring_raw_tile<L>(args, ahead.tile(), ahead.values() ? &maps.values : &maps.keys, ahead.key(),
                        shared + L::kRaw + ahead_stage * L::kRawBytes,
                        &barriers->raw_full[ahead_stage]);
      ahead.next();
      ahead_stage = (ahead_stage + 1) % kRawTiles;
    }
  };
  if (brings) {
    for (int i = 0; i < kRawTiles; ++i) {
      bring_next();
    }
  }
  for (int round = 0; round * static_cast<int>(gridDim.x) < total; ++round) {
    if (task_of(round) >= total) {
      continue;
    }
    const RowTile tile = row_tile<kRows>(args, starts, task_of(round));
    if (brings) {
      begin_task<L>(args, maps, query_boxes, shared, tile, tasks);
    }
    const KeyRange range(args, tile);
    for (int key = range.begin; key < range.end; key += kKeys) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        uint64_t* empty = part == 0 ? barriers->keys_empty : barriers->values_empty;
        uint64_t* full = part == 0 ? barriers->keys_full : barriers->values_full;
        wait_barrier(&barriers->raw_full[raw.stage], raw.phase);
        wait_barrier(&empty[ring.stage], ring.phase ^ 1);
        convert_tile<L>(
            shared + L::kRaw + raw.stage * L::kRawBytes,
            shared + (part == 0 ? L::kKeyTiles : L::kValueTiles) + ring.stage * L::kTileBytes);
        publish_shared();
        warpgroup_barrier(1 + kConsumers);  // all is converted: the raw tile is free
        if (threadIdx.x == 0) {
          arrive(&full[ring.stage]);
        }
        if (brings) {
          bring_next();
        }
        raw.next();
      }
      ring.next();
    }
  }
}

}  // namespace atom::gpu::sm90
