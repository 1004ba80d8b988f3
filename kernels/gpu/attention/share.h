// What part of a batch a block of decode attention works on, worked out by every block for itself
// from the lengths on the device. A batch is a row of items (sequence, kv head, block of query
// rows), an item a row of units of keys. Usually the row of all units is cut into one equal stretch
// per block: a stretch is at most one begun item, whole items, and one unfinished item. With
// batch_invariant an item is cut by its own length and blocks take the pieces in turn. Not here:
// the arithmetic.
#pragma once

#include "kernels/gpu/attention/instances.h"
#include "kernels/gpu/attention/lanes.h"

namespace atom::gpu {

// starts[s] = work of the sequences before s, for s < num_seqs; the sum of all. starts [num_seqs]
// and sums [blockDim / 32] lie in shared memory; all threads of the block call.
template <class WorkOf>
__device__ int sequence_starts(int num_seqs, int* starts, int* sums, const WorkOf& work_of) {
  const int thread = static_cast<int>(threadIdx.x);
  const int threads = static_cast<int>(blockDim.x);
  const int per_thread = (num_seqs + threads - 1) / threads;
  const int begin = thread * per_thread;
  const int end = begin + per_thread < num_seqs ? begin + per_thread : num_seqs;
  int own = 0;
  for (int s = begin; s < end; ++s) {
    starts[s] = own;
    own += work_of(s);
  }
  int before = own;  // inclusive sum over the warp, then over warps
  const int lane = thread % kLanes;
  for (int step = 1; step < kLanes; step *= 2) {
    const int other = shuffle(before, lane - step >= 0 ? lane - step : lane);
    before += lane >= step ? other : 0;
  }
  if (lane == kLanes - 1) {
    sums[thread / kLanes] = before;
  }
  __syncthreads();
  int offset = before - own;
  int total = 0;
  for (int w = 0; w < threads / kLanes; ++w) {
    offset += w < thread / kLanes ? sums[w] : 0;
    total += sums[w];
  }
  for (int s = begin; s < end; ++s) {
    starts[s] += offset;
  }
  __syncthreads();
  return total;
}

// The last sequence that starts at or before `unit`.
__device__ __forceinline__ int find_sequence(int unit, int num_seqs, const int* starts) {
  int low = 0;
  int high = num_seqs;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (starts[middle] <= unit) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// Keys [key_begin, key_end) of one item: piece `piece` of `num_pieces`.
struct Segment {
  int sequence = 0;
  int kv_head = 0;
  int row_block = 0;
  int context_len = 0;
  int query_start = 0;
  int query_len = 0;
  int key_begin = 0;
  int key_end = 0;
  int piece = 0;
  int num_pieces = 0;
  int first_slot = 0;  // partial results of piece 0
  int later_slot = 0;  // of piece p > 0: later_slot + p * slot_step
  int slot_step = 0;

  __device__ int slot(int p) const { return p == 0 ? first_slot : later_slot + p * slot_step; }
};

// kUnit: keys that a block takes at once; kRows: query rows (token, head of the group) of an item.
template <int kUnit, int kRows>
class DecodeShare {
 public:
  // A piece of fewer keys costs more to merge than it saves.
  static constexpr int kMinUnits = kMinPieceKeys / kUnit > 0 ? kMinPieceKeys / kUnit : 1;

  struct Extent {
    int context_len, query_start, query_len, first_key, units, heads;
  };

  static __device__ Extent extent(const PagedAttentionArgs& args, int sequence) {
    Extent e;
    e.query_start = args.metadata.query_start[sequence];
    e.query_len = args.metadata.query_start[sequence + 1] - e.query_start;
    e.context_len = args.metadata.context_lens[sequence];
    e.first_key = 0;
    if (args.sliding_window > 0) {
      const int first = e.context_len - e.query_len - args.sliding_window + 1;
      e.first_key = first > 0 ? first / 16 * 16 : 0;
    }
    const int units = (e.context_len - e.first_key + kUnit - 1) / kUnit;
    e.units = units > 1 ? units : 1;
    const int rows = e.query_len * (args.num_heads / args.num_kv_heads);
    e.heads = e.query_len > 0 && e.query_len <= args.max_decode_queries
                  ? args.num_kv_heads * ((rows + kRows - 1) / kRows)
                  : 0;
    return e;
  }

  static __device__ int pieces(int units) {
    const int wanted = units / kMinUnits;
    return wanted < 1 ? 1 : wanted < kInvariantPieces ? wanted : kInvariantPieces;
  }

  // See sequence_starts.
  __device__ DecodeShare(const PagedAttentionArgs& args, int* starts, int* sums)
      : args_(args), starts_(starts), num_seqs_(static_cast<int>(args.metadata.num_seqs)) {
    total_ = sequence_starts(num_seqs_, starts, sums, [&](int s) {
      const Extent e = extent(args, s);
      return e.heads * (args.batch_invariant ? pieces(e.units) : e.units);
    });
    const int wanted = args.batch_invariant ? total_ : (total_ + kMinUnits - 1) / kMinUnits;
    blocks_ = wanted < static_cast<int>(gridDim.x) ? wanted : static_cast<int>(gridDim.x);
    const int block = static_cast<int>(blockIdx.x);
    if (block >= blocks_) {
      next_ = end_ = 0;
    } else if (args.batch_invariant) {
      next_ = block;
      end_ = total_;
    } else {
      next_ = begin_of(block);
      end_ = begin_of(block + 1);
    }
  }

  // The next segment of this block; false when there is none.
  __device__ bool next(Segment& segment) {
    if (next_ >= end_) {
      return false;
    }
    const int s = find_sequence(next_, num_seqs_, starts_);
    const Extent e = extent(args_, s);
    const int local = next_ - starts_[s];
    const int per_item = args_.batch_invariant ? pieces(e.units) : e.units;
    const int item = local / per_item;
    const int offset = local - item * per_item;
    segment.sequence = s;
    segment.kv_head = item % args_.num_kv_heads;
    segment.row_block = item / args_.num_kv_heads;
    segment.context_len = e.context_len;
    segment.query_start = e.query_start;
    segment.query_len = e.query_len;
    int unit_begin = offset;
    int unit_end = 0;
    if (args_.batch_invariant) {
      unit_begin = offset * e.units / per_item;
      unit_end = (offset + 1) * e.units / per_item;
      segment.piece = offset;
      segment.num_pieces = per_item;
      segment.first_slot = segment.later_slot = next_ - offset;
      segment.slot_step = 1;
      next_ += blocks_;
    } else {
      const int block = static_cast<int>(blockIdx.x);
      const int item_begin = next_ - offset;
      const int first = owner(item_begin);
      unit_end = offset + (end_ - next_) < per_item ? offset + (end_ - next_) : per_item;
      segment.piece = block - first;
      segment.num_pieces = owner(item_begin + per_item - 1) - first + 1;
      // A block has two slots: for an item that it goes on with, and for one that it begins.
      segment.first_slot = 2 * first + (item_begin > begin_of(first) ? 1 : 0);
      segment.later_slot = 2 * first;
      segment.slot_step = 2;
      next_ += unit_end - offset;
    }
    segment.key_begin = e.first_key + unit_begin * kUnit;
    const int key_end = e.first_key + unit_end * kUnit;
    segment.key_end = key_end < e.context_len ? key_end : e.context_len;
    return true;
  }

 private:
  __device__ int begin_of(int block) const {
    return static_cast<int>(static_cast<int64_t>(total_) * block / blocks_);
  }
  __device__ int owner(int unit) const {
    return static_cast<int>((static_cast<int64_t>(unit + 1) * blocks_ - 1) / total_);
  }
  const PagedAttentionArgs& args_;
  const int* starts_;
  int num_seqs_;
  int total_ = 0;
  int blocks_ = 0;
  int next_ = 0;
  int end_ = 0;
};

}  // namespace atom::gpu
