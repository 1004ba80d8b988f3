// RMSNorm of the residual stream, with the addition before it and the quantisation after it. One
// block a row, or one warp where rows are short and many; the row stays in registers between the
// sum of squares and the result.
#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/primitives/warp.h"
#include "kernels/gpu/vector_ops.h"
#include "kernels/gpu/vector_ops/row_io.h"

namespace atom::gpu {
namespace {

constexpr int kMaxThreads = 1024;
// Pieces of 8 values that a thread keeps: one where the row allows it, the shortest chain of
// dependent steps; rows of up to kLongPieces * 8 * kLongThreads values.
constexpr int kLongPieces = 8;
constexpr int kLongThreads = 512;

// Rows of a block, one a warp.
constexpr int kWarpRows = 8;
constexpr int kWarpPieces = 4;
constexpr int64_t kLongestWarpRow = kWarpPieces * 8 * kWarpSize;
// Fewer rows leave multiprocessors idle.
constexpr int64_t kFewestWarpRows = 1024;

// Who owns a row: a block, or a warp of one of kWarpRows. Sums are the same, bit for bit: a warp's
// kSums are those of a block's warps.
template <int kPieces_, int kThreads_>
struct BlockRow {
  static constexpr int kThreads = kThreads_;
  static constexpr int kPieces = kPieces_;
  static constexpr int kSums = 1;
  __device__ int64_t row() const { return blockIdx.x; }
  __device__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ int threads() const { return static_cast<int>(blockDim.x); }
  // Sum and maximum over the row, in one pass; `shared` has two floats a warp.
  __device__ float reduce(const float (&values)[kSums], float& largest, float* shared) const {
    const float sum = reduce_lanes<SumOf>(values[0]);
    largest = reduce_lanes<MaxOf>(largest);
    const int warps = threads() / kWarpSize;
    if (thread() % kWarpSize == 0) {
      shared[thread() / kWarpSize] = sum;
      shared[kMaxThreads / kWarpSize + thread() / kWarpSize] = largest;
    }
    __syncthreads();
    float total = shared[0];
    largest = shared[kMaxThreads / kWarpSize];
    for (int i = 1; i < warps; ++i) {
      total += shared[i];
      largest = fmaxf(largest, shared[kMaxThreads / kWarpSize + i]);
    }
    return total;
  }
};
struct WarpRow {
  static constexpr int kThreads = kWarpRows * kWarpSize;
  static constexpr int kPieces = kWarpPieces;
  static constexpr int kSums = kWarpPieces;
  __device__ int64_t row() const {
    return static_cast<int64_t>(blockIdx.x) * kWarpRows + threadIdx.x / kWarpSize;
  }
  __device__ int thread() const { return static_cast<int>(threadIdx.x) % kWarpSize; }
  __device__ int threads() const { return kWarpSize; }
  __device__ float reduce(const float (&values)[kSums], float& largest, float*) const {
    float total = reduce_lanes<SumOf>(values[0]);
#pragma unroll
    for (int p = 1; p < kSums; ++p) {
      total += reduce_lanes<SumOf>(values[p]);
    }
    largest = reduce_lanes<MaxOf>(largest);
    return total;
  }
};

template <class Residual, class Owner>
__global__ void __launch_bounds__(Owner::kThreads) rms_norm_kernel(const RmsNormArgs args) {
  constexpr int kPieces = Owner::kPieces;
  __shared__ float shared[2 * kMaxThreads / kWarpSize];
  const Owner owner;
  const int64_t token = owner.row();
  const int64_t row = token * args.hidden_size;
  const int size = static_cast<int>(args.hidden_size);
  auto* residual = static_cast<Residual*>(args.residual) + row;
  const int thread = owner.thread();
  const int step = owner.threads() * 8;
  allow_next();
  // Constant: before the wait, where there are registers for it.
  float weight[8];
  if (kPieces == 1 && thread * 8 < size) {
    load8(args.weight + thread * 8, weight);
  }
  wait_previous();
  if (token >= args.num_tokens) {  // a whole warp
    return;
  }

  const float x_scale = row_scale(args.x_scales, token);
  float values[kPieces][8];
  float squares[Owner::kSums] = {};
  float largest = 0.0F;  // of values times weights
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = thread * 8 + p * step;
    if (i >= size) {
      break;
    }
    load8(residual + i, values[p]);
    if (args.x != nullptr) {
      float added[8];
      load8(args.x + row + i, added);
      scale8(args.x_scales, x_scale, i, added);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        values[p][j] += added[j];
      }
      store8(residual + i, values[p]);
    }
    if (kPieces > 1) {
      load8(args.weight + i, weight);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      squares[p % Owner::kSums] += values[p][j] * values[p][j];
      largest = fmaxf(largest, fabsf(values[p][j] * weight[j]));
    }
  }
  const float mean = owner.reduce(squares, largest, shared) / static_cast<float>(size);
  const float inverse = 1.0F / sqrtf(mean + args.eps);

#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = thread * 8 + p * step;
    if (i >= size) {
      break;
    }
    if (kPieces > 1) {
      load8(args.weight + i, weight);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      values[p][j] = values[p][j] * inverse * weight[j];
    }
    if (args.out != nullptr) {
      store8(args.out + row + i, values[p]);
    }
  }
  if (args.out_fp8 == nullptr) {
    return;
  }
  const float scale = largest > 0.0F ? largest * inverse / kE4M3Largest : 1.0F;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = thread * 8 + p * step;
    if (i >= size) {
      break;
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      values[p][j] = __fdividef(values[p][j], scale);
    }
    store8(args.out_fp8 + row + i, values[p]);
  }
  if (thread == 0) {
    args.out_scales[token] = scale;
  }
}

int threads_for(int64_t size) {
  const int64_t pieces = (size + 7) / 8;
  const int64_t threads = (pieces + kWarpSize - 1) / kWarpSize * kWarpSize;
  return static_cast<int>(threads < kMaxThreads ? threads : kMaxThreads);
}

template <class Owner>
DeviceStatus launch_rows(const LaunchShape& shape, const RmsNormArgs& args) {
  return args.residual_dtype == DType::kF32
             ? launch_chained(rms_norm_kernel<float, Owner>, shape, args)
             : launch_chained(rms_norm_kernel<uint16_t, Owner>, shape, args);
}

}  // namespace

DeviceStatus rms_norm(const RmsNormArgs& args, DeviceStream stream) {
  if (args.num_tokens == 0) {
    return nullptr;
  }
  if (args.hidden_size % 8 != 0 || args.hidden_size > kLongPieces * 8 * kLongThreads) {
    return "rms_norm: the row size is not a multiple of 8 up to 32768";
  }
  LaunchShape shape{.grid = dim3(static_cast<unsigned>(args.num_tokens)),
                    .block = dim3(static_cast<unsigned>(threads_for(args.hidden_size))),
                    .stream = static_cast<cudaStream_t>(stream)};
  if (args.hidden_size <= kLongestWarpRow && args.num_tokens >= kFewestWarpRows) {
    shape.grid.x = static_cast<unsigned>((args.num_tokens + kWarpRows - 1) / kWarpRows);
    shape.block.x = WarpRow::kThreads;
    return launch_rows<WarpRow>(shape, args);
  }
  if (args.hidden_size <= 8 * kMaxThreads) {
    return launch_rows<BlockRow<1, kMaxThreads>>(shape, args);
  }
  shape.block.x = kLongThreads;
  return launch_rows<BlockRow<kLongPieces, kLongThreads>>(shape, args);
}

}  // namespace atom::gpu
