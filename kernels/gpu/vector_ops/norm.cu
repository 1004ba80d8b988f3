// RMSNorm of the residual stream, with the addition before it and the quantisation after it. One
// block a row; the row stays in registers between the sum of squares and the result.
#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/primitives/warp.h"
#include "kernels/gpu/vector_ops.h"
#include "kernels/gpu/vector_ops/row_io.h"

namespace atom::gpu {
namespace {

// Pieces of 8 values that a thread keeps: rows of up to kPieces * 8 * 1024 values.
constexpr int kPieces = 4;
constexpr int kMaxThreads = 1024;

template <class Residual>
__global__ void __launch_bounds__(kMaxThreads) rms_norm_kernel(const RmsNormArgs args) {
  __shared__ float sums[kMaxThreads / kWarpSize];
  __shared__ float maxima[kMaxThreads / kWarpSize];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * args.hidden_size;
  const int size = static_cast<int>(args.hidden_size);
  auto* residual = static_cast<Residual*>(args.residual) + row;
  const int step = static_cast<int>(blockDim.x) * 8;
  allow_next();
  wait_previous();

  float values[kPieces][8];
  float squares = 0.0F;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = static_cast<int>(threadIdx.x) * 8 + p * step;
    if (i >= size) {
      break;
    }
    load8(residual + i, values[p]);
    if (args.x != nullptr) {
      float added[8];
      load8(args.x + row + i, added);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        values[p][j] += added[j];
      }
      store8(residual + i, values[p]);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      squares += values[p][j] * values[p][j];
    }
  }
  const float mean = reduce_block<SumOf>(squares, sums) / static_cast<float>(size);
  const float inverse = 1.0F / sqrtf(mean + args.eps);

  float largest = 0.0F;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = static_cast<int>(threadIdx.x) * 8 + p * step;
    if (i >= size) {
      break;
    }
    float weight[8];
    load8(args.weight + i, weight);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      values[p][j] = values[p][j] * inverse * weight[j];
      largest = fmaxf(largest, fabsf(values[p][j]));
    }
    if (args.out != nullptr) {
      store8(args.out + row + i, values[p]);
    }
  }
  if (args.out_fp8 == nullptr) {
    return;
  }
  largest = reduce_block<MaxOf>(largest, maxima);
  const float scale = largest > 0.0F ? largest / kE4M3Largest : 1.0F;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int i = static_cast<int>(threadIdx.x) * 8 + p * step;
    if (i >= size) {
      break;
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      values[p][j] /= scale;
    }
    store8(args.out_fp8 + row + i, values[p]);
  }
  if (threadIdx.x == 0) {
    args.out_scales[blockIdx.x] = scale;
  }
}

// A thread keeps one piece where the row allows it: the shortest chain of dependent steps.
int threads_for(int64_t size) {
  const int64_t pieces = (size + 7) / 8;
  const int64_t threads = (pieces + kWarpSize - 1) / kWarpSize * kWarpSize;
  return static_cast<int>(threads < kMaxThreads ? threads : kMaxThreads);
}

}  // namespace

DeviceStatus rms_norm(const RmsNormArgs& args, DeviceStream stream) {
  if (args.num_tokens == 0) {
    return nullptr;
  }
  if (args.hidden_size % 8 != 0 || args.hidden_size > kPieces * 8 * kMaxThreads) {
    return "rms_norm: the row size is not a multiple of 8 up to 32768";
  }
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(args.num_tokens)),
                          .block = dim3(static_cast<unsigned>(threads_for(args.hidden_size))),
                          .stream = static_cast<cudaStream_t>(stream)};
  return args.residual_dtype == DType::kF32
             ? launch_chained(rms_norm_kernel<float>, shape, args)
             : launch_chained(rms_norm_kernel<uint16_t>, shape, args);
}

}  // namespace atom::gpu
