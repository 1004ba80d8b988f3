// The second product with the sum over choices: a block takes 8 output rows of all tasks; a warp
// computes whole dot products (or a fixed part of k, where a token has few choices), and the sum
// over a token's choices is taken in shared memory, in their order. Device code, C++20.
#pragma once

#include "kernels/gpu/moe/expert_stream.h"

namespace atom::gpu {

// The second product with the sum over choices, for few tokens.
template <class F>
class ExpertSums {
 public:
  static constexpr int kSums = ProductTile::kTokenLoads == 2 ? 2 : 4;
  static constexpr int kDepth = (F::kPieces == 1 ? 12 : 8) / ExpertLoads<F, 1>::kChunks;
  static constexpr int kRows = ProductTile::kRows;
  static constexpr int kMostParts = kExpertWarps;
  // Parts of k times pairs.
  static constexpr int kMostResults = kMostFewPairs;

  struct Shared {
    float results[kMostResults][kRows];
    FewTasks few;
  };

  __device__ ExpertSums(const FusedExpertsArgs& args, const uint16_t* inside, Shared& shared)
      : args_(args),
        inside_(inside),
        shared_(shared),
        lane_(static_cast<int>(threadIdx.x) % kWarpSize),
        warp_(static_cast<int>(threadIdx.x) / kWarpSize),
        cols_(static_cast<int>(args.down.cols)),
        num_rows_(static_cast<int>(args.down.rows)),
        num_pairs_(static_cast<int>(args.num_tokens * args.top_k)),
        policy_(streaming_policy()) {
    const int groups = (cols_ + kExpertGroup - 1) / kExpertGroup;
    parts_ = kExpertWarps;
    while (parts_ > 1 &&
           (parts_ > groups || parts_ * static_cast<int>(args.top_k) > kExpertWarps)) {
      parts_ /= 2;
    }
    slots_ = kExpertWarps / parts_;
    const int part = warp_ % parts_;
    first_group_ = groups * part / parts_;
    groups_ = groups * (part + 1) / parts_ - first_group_;
  }

  // Which experts there are was known before the kernel before this one began.
  __device__ void begin() {
    num_tasks_ = find_few_tasks(args_.ids, num_pairs_, shared_.few);
    first_row_ = static_cast<int>(blockIdx.x) * kRows;
    start_stream();
  }

  __device__ void run() {
    for (; first_row_ < num_rows_; first_row_ += static_cast<int>(gridDim.x) * kRows) {
      if (is_started_) {
        is_started_ = false;
      } else {
        start_stream();
      }
      multiply();
      __syncthreads();
      add_up();
      __syncthreads();
    }
  }

 private:
  __device__ __forceinline__ void start_stream() {
    is_started_ = true;
    const int slot = warp_ / parts_;
    to_load_ = slot < num_tasks_ ? (num_tasks_ - slot + slots_ - 1) / slots_ * groups_ : 0;
    to_multiply_ = to_load_;
    load_task_ = slot;
    load_group_ = 0;
    if (to_load_ > 0) {
      point_row();
    }
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      load(loads_[d]);
    }
  }

  __device__ __forceinline__ void point_row() {
    if (load_task_ + slots_ < num_tasks_ && lane_ == 0) {
      touch_ahead(expert_row<F>(args_.down, shared_.few.expert(load_task_ + slots_), first_row_,
                                num_rows_, lane_)
                      .values);
    }
    row_[0] =
        expert_row<F>(args_.down, shared_.few.expert(load_task_), first_row_, num_rows_, lane_);
  }

  __device__ __forceinline__ void load(ExpertLoads<F, 1>& to) {
    if (to_load_ == 0) {
      return;
    }
    to.load(row_, (first_group_ + load_group_) * kExpertGroup, cols_, lane_, policy_);
    --to_load_;
    if (++load_group_ == groups_) {
      load_group_ = 0;
      load_task_ += slots_;
      if (to_load_ > 0) {
        point_row();
      }
    }
  }

  __device__ __forceinline__ void begin_task(int task) {
    const int last = shared_.few.count(task) - 1;
#pragma unroll
    for (int l = 0; l < ProductTile::kTokenLoads; ++l) {
      const int j = min(ProductTile::token(lane_, l) % static_cast<int>(kFewTokens), last);
      x_[l] = inside_ + static_cast<int64_t>(shared_.few.pair(task, j)) * cols_;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums_[0][i] = 0.0F;
    }
  }

  __device__ __forceinline__ void multiply() {
    int task = warp_ / parts_;
    int group = 0;
    if (to_multiply_ > 0) {
      begin_task(task);
    }
    while (to_multiply_ > 0) {
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        if (to_multiply_ > 0) {
          loads_[d].multiply(x_, false, (first_group_ + group) * kExpertGroup, cols_, lane_, sums_);
          load(loads_[d]);
          --to_multiply_;
          if (++group == groups_) {
            group = 0;
            keep_results(task);
            task += slots_;
            if (to_multiply_ > 0) {
              begin_task(task);
            }
          }
        }
      }
    }
  }

  __device__ __forceinline__ void keep_results(int task) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      const int token = ProductTile::sum_token(lane_, i);
      if (token < shared_.few.count(task)) {
        shared_.results[warp_ % parts_ * num_pairs_ + shared_.few.pair(task, token)]
                       [ProductTile::sum_row(lane_, i)] = sums_[0][i];
      }
    }
  }

  __device__ __forceinline__ void add_up() {
    const int top_k = static_cast<int>(args_.top_k);
    for (int e = static_cast<int>(threadIdx.x); e < args_.num_tokens * kRows; e += kExpertThreads) {
      const int token = e / kRows;
      const int row = first_row_ + e % kRows;
      if (row >= num_rows_) {
        continue;
      }
      const int64_t at = static_cast<int64_t>(token) * num_rows_ + row;
      float total = 0.0F;
      if (args_.add) {
        total = args_.out_dtype == DType::kF32 ? static_cast<const float*>(args_.out)[at]
                                               : from_bf16(static_cast<uint16_t*>(args_.out)[at]);
      }
      for (int k = 0; k < top_k; ++k) {
        const int pair = token * top_k + k;
        float y = 0.0F;
        for (int part = 0; part < parts_; ++part) {
          y += shared_.results[part * num_pairs_ + pair][e % kRows];
        }
        if (args_.down.bias != nullptr) {
          y += args_.down.bias[static_cast<int64_t>(shared_.few.ids[pair]) * num_rows_ + row];
        }
        total += load_fresh(args_.weights + pair) * y;
      }
      if (args_.out_dtype == DType::kF32) {
        static_cast<float*>(args_.out)[at] = total;
      } else {
        static_cast<uint16_t*>(args_.out)[at] = to_bf16(total);
      }
    }
  }

  const FusedExpertsArgs& args_;
  const uint16_t* inside_;
  Shared& shared_;
  const int lane_;
  const int warp_;
  const int cols_;
  const int num_rows_;
  const int num_pairs_;
  const uint64_t policy_;
  int parts_;  // of k, each a warp's
  int slots_;  // tasks at a time
  int first_group_;
  int groups_;  // of this warp
  int num_tasks_ = 0;
  int first_row_ = 0;
  bool is_started_ = false;
  typename F::Row row_[1];
  const uint16_t* x_[ProductTile::kTokenLoads];
  ExpertLoads<F, 1> loads_[kDepth];
  float sums_[1][4];
  int load_task_ = 0;
  int load_group_ = 0;
  int to_load_ = 0;
  int to_multiply_ = 0;
};

}  // namespace atom::gpu
