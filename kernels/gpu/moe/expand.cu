// Experts' weights expanded to bf16, for products that read nothing else.
#include "kernels/gpu/moe/experts.h"

namespace atom::gpu {
namespace {

constexpr int kThreads = 256;

// A thread: 8 values of a row.
template <bool kE4M3>
__global__ void __launch_bounds__(kThreads)
    expand_kernel(const ExpertMatrix weight, int64_t count, uint16_t* out) {
  wait_previous();
  allow_next();
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += stride) {
    const int64_t row = i * 8 / weight.cols;
    const int k = static_cast<int>(i * 8 - row * weight.cols);
    if constexpr (kE4M3) {
      const uint2 stored = static_cast<const uint2*>(weight.values)[i];
      const int64_t at =
          row / weight.scale_rows * weight.scale_cols + (weight.scale_cols > 1 ? k / 128 : 0);
      const float scale = static_cast<const float*>(weight.scales)[at];
      float values[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        values[j] = from_e4m3((j < 4 ? stored.x : stored.y) >> (j % 4 * 8) & 0xffU) * scale;
      }
      store16(out + i * 8, pack_bf16(values));
    } else {
      const uint32_t word = static_cast<const uint32_t*>(weight.values)[i];
      const uint32_t scale =
          static_cast<const uint8_t*>(weight.scales)[row * (weight.cols / 32) + k / 32];
      store16(out + i * 8, e2m1_to_bf16(word, e2m1_factor(scale)));
    }
  }
}

}  // namespace

DeviceStatus expand_experts(const ExpertMatrix& weight, int64_t num_experts, uint16_t* out,
                            DeviceStream stream) {
  const int64_t count = num_experts * weight.rows * weight.cols / 8;
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(multiprocessor_count() * 8)),
                          .block = dim3(kThreads),
                          .stream = static_cast<cudaStream_t>(stream)};
  return launch_chained(weight.dtype == DType::kF8E4M3 ? expand_kernel<true> : expand_kernel<false>,
                        shape, weight, count, out);
}

}  // namespace atom::gpu
