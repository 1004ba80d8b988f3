// The experts' rows of results, pair by pair: a block takes 8 rows of gate with their rows of up
// (or 16 rows of one matrix) of one task at a time; its warps split k in groups of 128 values and
// meet in shared memory, in the order of warps. Device code, C++20.
#pragma once

#include "kernels/gpu/moe/expert_stream.h"

namespace atom::gpu {

// kFew: tasks of up to kFewTokens tokens, found here; else those of the plan.
template <class F, bool kFew>
class ExpertRows {
 public:
  static constexpr int kTiles = 2;
  static constexpr int kTokens = kFew ? 8 : 16;
  static constexpr int kSums = kFew && ProductTile::kTokenLoads == 2 ? 2 : 4;
  static constexpr int kPartials = kTiles * kSums * kWarpSize;  // floats of a warp
  // 16 loads in flight, fewer where each brings more to compute.
  static constexpr int kDepth =
      (F::kPieces == 1 ? 16 : 8) / (kTiles * ExpertLoads<F, kTiles>::kChunks);
  static constexpr int kRound = kExpertWarps * kExpertGroup;

  struct Shared {
    float partials[2][kExpertWarps][kPartials];
    FewTasks few;
  };

  __device__ ExpertRows(const ExpertRowsArgs& args, Shared& shared)
      : args_(args),
        shared_(shared),
        lane_(static_cast<int>(threadIdx.x) % kWarpSize),
        warp_(static_cast<int>(threadIdx.x) / kWarpSize),
        cols_(static_cast<int>(args.weight.cols)),
        width_(static_cast<int>(args.is_first ? args.weight.rows / 2 : args.weight.rows)),
        step_(args.is_first ? ProductTile::kRows : 2 * ProductTile::kRows),
        tiles_((width_ + step_ - 1) / step_),
        rounds_((cols_ + kRound - 1) / kRound),
        policy_(streaming_policy()) {}

  __device__ void run() {
    const int num_tasks = kFew ? find_few_tasks(args_.ids, args_.num_pairs, shared_.few)
                               : load_fresh(args_.plan.num_tasks);
    // A block's passes follow each other: a new page of weights every few passes, not with each,
    // matters where weights are larger than what the device's page tables keep at hand.
    const auto num_passes = static_cast<int64_t>(num_tasks) * tiles_;
    const auto block = static_cast<int64_t>(blockIdx.x);
    const int end = static_cast<int>(num_passes * (block + 1) / gridDim.x);
    load_pass_ = static_cast<int>(num_passes * block / gridDim.x);
    int pass = load_pass_;
    int to_multiply = (end - pass) * rounds_;
    to_load_ = to_multiply;
    if (to_load_ == 0) {
      return;
    }
    point_rows();
    ExpertLoads<F, kTiles> loads[kDepth];
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      load(loads[d]);
    }
    int round = 0;
    begin_pass(pass);
    while (to_multiply > 0) {
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        if (to_multiply > 0) {
          loads[d].multiply(x_, kTokens == 16, first_value(round), cols_, lane_, sums_);
          load(loads[d]);
          --to_multiply;
          if (++round == rounds_) {
            round = 0;
            finish(pass);
            ++pass;
            if (to_multiply > 0) {
              begin_pass(pass);
            }
          }
        }
      }
    }
  }

 private:
  __device__ __forceinline__ int first_value(int round) const {
    return (round * kExpertWarps + warp_) * kExpertGroup;
  }
  __device__ __forceinline__ int expert_of(int task) const {
    return kFew ? shared_.few.expert(task) : load_fresh(&args_.plan.tasks[task].expert);
  }
  __device__ __forceinline__ int count_of(int task) const {
    return kFew ? shared_.few.count(task) : load_fresh(&args_.plan.tasks[task].count);
  }
  // The row of `out`, and of x in the second product, that belongs to pair j of a task.
  __device__ __forceinline__ int row_of(int task, int j) const {
    return kFew ? shared_.few.pair(task, j) : load_fresh(&args_.plan.tasks[task].begin) + j;
  }
  __device__ __forceinline__ int first_row(int tile, int r) const {
    return tile * step_ + r * (args_.is_first ? width_ : ProductTile::kRows);
  }

  __device__ __forceinline__ void point_rows() {
    const int task = load_pass_ / tiles_;
    const int tile = load_pass_ - task * tiles_;
    const int expert = expert_of(task);
#pragma unroll
    for (int r = 0; r < kTiles; ++r) {
      const int limit = args_.is_first && r == 0 ? width_ : static_cast<int>(args_.weight.rows);
      rows_[r] = expert_row<F>(args_.weight, expert, first_row(tile, r), limit, lane_);
    }
  }

  __device__ __forceinline__ void load(ExpertLoads<F, kTiles>& to) {
    if (to_load_ == 0) {
      return;
    }
    to.load(rows_, first_value(load_round_), cols_, lane_, policy_);
    --to_load_;
    if (++load_round_ == rounds_) {
      load_round_ = 0;
      ++load_pass_;
      if (to_load_ > 0) {
        point_rows();
      }
    }
  }

  __device__ __forceinline__ void begin_pass(int pass) {
    const int task = pass / tiles_;
    const int last = count_of(task) - 1;
#pragma unroll
    for (int l = 0; l < ProductTile::kTokenLoads; ++l) {
      const int row = row_of(task, min(ProductTile::token(lane_, l) % kTokens, last));
      int source = row;
      if (args_.is_first) {
        source = (kFew ? row : load_fresh(args_.plan.pair_of + row)) / args_.top_k;
      }
      x_[l] = args_.x + static_cast<int64_t>(source) * cols_;
    }
#pragma unroll
    for (int r = 0; r < kTiles; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums_[r][i] = 0.0F;
      }
    }
  }

  __device__ __forceinline__ float result(const float (&buffer)[kExpertWarps][kPartials],
                                          int element, int expert, int row) const {
    float y = 0.0F;
#pragma unroll
    for (int w = 0; w < kExpertWarps; ++w) {
      y += buffer[w][element];
    }
    const float* bias = args_.weight.bias;
    return bias == nullptr ? y : y + bias[static_cast<int64_t>(expert) * args_.weight.rows + row];
  }

  // Buffers of partial sums alternate: who writes those of pass p + 2 has passed the barrier of
  // p + 1, which the readers of p reach after reading.
  __device__ __forceinline__ void finish(int pass) {
    auto& buffer = shared_.partials[parity_];
    parity_ ^= 1;
#pragma unroll
    for (int r = 0; r < kTiles; ++r) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        buffer[warp_][(r * kSums + i) * kWarpSize + lane_] = sums_[r][i];
      }
    }
    __syncthreads();
    const int task = pass / tiles_;
    const int tile = pass - task * tiles_;
    const int expert = expert_of(task);
    const int count = count_of(task);
    const int elements = args_.is_first ? kPartials / 2 : kPartials;
    for (int e = static_cast<int>(threadIdx.x); e < elements; e += kExpertThreads) {
      const int lane = e % kWarpSize;
      const int i = e / kWarpSize % kSums;
      const int r = e / kWarpSize / kSums;
      const int token = ProductTile::sum_token(lane, i);
      const int row = first_row(tile, r) + ProductTile::sum_row(lane, i);
      if (token >= count || row >= width_) {
        continue;
      }
      float y = result(buffer, e, expert, row);
      if (args_.is_first) {
        const float up = result(buffer, e + kPartials / 2, expert, row + width_);
        y = activate(args_.activation, args_.swiglu_limit, y, up);
      }
      args_.out[static_cast<int64_t>(row_of(task, token)) * width_ + row] = to_bf16(y);
    }
  }

  const ExpertRowsArgs& args_;
  Shared& shared_;
  const int lane_;
  const int warp_;
  const int cols_;
  const int width_;  // of a row of `out`
  const int step_;   // rows of a pass there
  const int tiles_;
  const int rounds_;
  const uint64_t policy_;
  typename F::Row rows_[kTiles];
  const uint16_t* x_[ProductTile::kTokenLoads];
  float sums_[kTiles][4];
  int load_pass_ = 0;
  int load_round_ = 0;
  int to_load_ = 0;
  int parity_ = 0;
};

}  // namespace atom::gpu
