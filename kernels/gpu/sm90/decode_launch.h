// Decode attention for Hopper: the portable body (attention/decode_body.h) behind a ring of tiles
// in shared memory. A block fills a multiprocessor; its last warp brings 16 keys and values at a
// time by bulk copies, as far ahead as the ring reaches and over the ends of segments, so that the
// memory never waits for a merge or a new sequence; the other warps take the tiles in turn.
#pragma once

#include "kernels/gpu/attention/decode_body.h"
#include "kernels/gpu/sm90/hopper.h"

namespace atom::gpu::sm90 {

// kBlocks: of a multiprocessor.
template <class T, int kBlocks>
struct RingLayout {
  static constexpr int kTileBytes = 2 * 16 * T::kRowBytes;  // keys, values
  // As many slots as fit beside the body's own memory and the starts of some sequences; a multiple
  // of the warps, so that a slot always belongs to one.
  static constexpr int kMost = (228 / kBlocks - 1) * 1024;
  static constexpr int kRoom = kMost - 6 * 1024 / kBlocks - T::kSharedBytes;
  static constexpr int kSlots = kRoom / (kTileBytes + 16) / T::kWarps * T::kWarps;
  static constexpr int kBarriers = kSlots * kTileBytes;
  static constexpr int kBody = kBarriers + kSlots * 16;
  static constexpr int kBytes = kBody + T::kSharedBytes;
  static constexpr int kThreads = T::kThreads + kLanes;
};

// What a warp sees of the ring. Tile n lies in slot n % kSlots.
template <class T, int kBlocks>
struct RingTiles {
  static constexpr bool kStaged = true;
  using L = RingLayout<T, kBlocks>;
  uint32_t tiles = 0;        // shared address of slot 0
  uint64_t* full = nullptr;  // [kSlots]
  uint64_t* empty = nullptr;

  __device__ void sync() const { asm volatile("bar.sync 1, %0;" ::"n"(T::kThreads) : "memory"); }
  __device__ __forceinline__ uint32_t wait(int n) const {
    const int slot = n % L::kSlots;
    wait_barrier(&full[slot], static_cast<uint32_t>(n / L::kSlots) & 1U);
    return tiles + slot * L::kTileBytes;
  }
  __device__ __forceinline__ void release(int n) const {
    warp_sync();
    if (threadIdx.x % kLanes == 0) {
      arrive(&empty[n % L::kSlots]);
    }
  }
};

// The last warp: copies for all tiles of the block, in order. Each lane looks up one of the next
// tiles.
template <class T, int kBlocks>
__device__ void bring_tiles(const PagedAttentionArgs& args, DecodeShare<T::kUnit, T::kRows>& share,
                            const RingTiles<T, kBlocks>& ring) {
  using L = RingLayout<T, kBlocks>;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int size = static_cast<int>(args.cache.block_size);
  int n = 0;
  Segment segment;
  while (share.next(segment)) {
    const int32_t* table =
        args.metadata.block_tables + segment.sequence * args.metadata.block_table_stride;
    for (int begin = segment.key_begin; begin < segment.key_end; begin += 16 * kLanes) {
      const int key = begin + lane * 16;
      int64_t offset = 0;
      if (key < segment.key_end) {
        offset = ((static_cast<int64_t>(table[key / size]) * args.num_kv_heads + segment.kv_head) *
                      size +
                  key % size) *
                 T::kRowBytes;
      }
      const int left = (segment.key_end - begin + 15) / 16;
      const int count = left < kLanes ? left : kLanes;
      for (int i = 0; i < count; ++i, ++n) {
        const int slot = n % L::kSlots;
        const uint32_t round = static_cast<uint32_t>(n / L::kSlots);
        wait_barrier(&ring.empty[slot], (round & 1U) ^ 1U);
        if (lane == i) {
          const uint32_t to = ring.tiles + slot * L::kTileBytes;
          expect_bytes(&ring.full[slot], L::kTileBytes);
          copy_bytes(to, static_cast<const uint8_t*>(args.cache.k) + offset, L::kTileBytes / 2,
                     &ring.full[slot]);
          copy_bytes(to + L::kTileBytes / 2, static_cast<const uint8_t*>(args.cache.v) + offset,
                     L::kTileBytes / 2, &ring.full[slot]);
        }
      }
    }
  }
}

template <class T, int kBlocks>
__global__ void __launch_bounds__(RingLayout<T, kBlocks>::kThreads, kBlocks)
    decode_ring_kernel(const PagedAttentionArgs args, int32_t* counters, float* partials) {
  using L = RingLayout<T, kBlocks>;
  extern __shared__ __align__(1024) uint8_t shared[];
  auto* full = reinterpret_cast<uint64_t*>(shared + L::kBarriers);
  auto* words = reinterpret_cast<uint32_t*>(shared + L::kBody);
  int* starts = reinterpret_cast<int*>(shared + L::kBytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < L::kSlots; ++i) {
      init_barrier(&full[i], 1);
      init_barrier(&full[L::kSlots + i], 1);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    publish_shared();
  }
  allow_next();
  DecodeShare<T::kUnit, T::kRows> share(args, starts, reinterpret_cast<int*>(words));
  wait_previous();
  const RingTiles<T, kBlocks> ring{shared_address(shared), full, full + L::kSlots};
  if (threadIdx.x >= T::kThreads) {
    bring_tiles<T, kBlocks>(args, share, ring);
    return;
  }
  DecodeBody<T, RingTiles<T, kBlocks>> body(args, words, counters, partials, ring);
  Segment segment;
  while (share.next(segment)) {
    body.run(segment);
  }
}

template <class T, int kBlocks>
bool launch_decode_ring(const PagedAttentionArgs& args, void* stream) {
  using L = RingLayout<T, kBlocks>;
  const auto kernel = decode_ring_kernel<T, kBlocks>;
  const int shared = L::kBytes + static_cast<int>(args.metadata.num_seqs + 1) * 4;
  if (shared > L::kMost) {
    return false;
  }
  static const bool allowed =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, L::kMost) == cudaSuccess;
  return allowed &&
         launch_chained(kernel,
                        {.grid = dim3(static_cast<unsigned>(multiprocessor_count() * kBlocks)),
                         .block = dim3(L::kThreads),
                         .shared_bytes = static_cast<unsigned>(shared),
                         .stream = static_cast<cudaStream_t>(stream)},
                        args, decode_counters(args.workspace), decode_partials(args)) == nullptr;
}

}  // namespace atom::gpu::sm90
