// What the benchmarks of linear layers share: shapes of the models of the speed table, a pool of
// weights larger than the caches, the read roof of the card. Not in the product. C++20.
#pragma once

#include <cuda_runtime.h>

#include "kernels/gpu/device_test.h"
#include "kernels/gpu/linear.h"
#include "kernels/gpu/primitives/types.h"
#include "kernels/gpu/vector_ops.h"

namespace atom::gpu::device_test {

struct BenchmarkShape {
  const char* name;
  int64_t n;
  int64_t k;
};

inline constexpr BenchmarkShape kLlama8B[] = {{"8B qkv", 6144, 4096},
                                              {"8B o", 4096, 4096},
                                              {"8B gate_up", 28672, 4096},
                                              {"8B down", 4096, 14336},
                                              {"8B head", 128256, 4096}};
inline constexpr BenchmarkShape kQwen06B[] = {{"0.6B qkv", 4096, 1024},
                                              {"0.6B o", 1024, 2048},
                                              {"0.6B gate_up", 6144, 1024},
                                              {"0.6B down", 1024, 3072},
                                              {"0.6B head", 151936, 1024}};

// Random weights: copies of one matrix lie behind each other, used in turn.
class WeightPool {
 public:
  static constexpr int64_t kBytes = int64_t{2200} << 20;

  WeightPool() : data_(kBytes) {
    // bf16 of small magnitude; as e4m3 bytes they are finite: 0x7f and 0xff are cleared.
    (void)fill_random(7, 0.05F, reinterpret_cast<uint16_t*>(data_.data()), kBytes / 2, stream());
  }
  int copies(int64_t bytes) const { return static_cast<int>(std::max<int64_t>(1, kBytes / bytes)); }
  uint8_t* copy(int index, int64_t bytes) const {
    return data_.data() + index % copies(bytes) * bytes;
  }
  uint8_t* data() const { return data_.data(); }

 private:
  DeviceArray<uint8_t> data_;
};

static __global__ void __launch_bounds__(512)
    read_kernel(const Vec16* from, int64_t count, uint32_t* sink) {
  const uint64_t policy = streaming_policy();
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  uint32_t sum = 0;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
       i + 7 * stride < count; i += 8 * stride) {
    Vec16 v[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      v[j] = load_stream16(from + i + j * stride, policy);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      sum += v[j].word[0] ^ v[j].word[1] ^ v[j].word[2] ^ v[j].word[3];
    }
  }
  if (sum == 0x12345678U) *sink = sum;
}

inline double read_roof(const WeightPool& pool) {
  DeviceArray<uint32_t> sink(1);
  const double us = time_us(2, [&](int) {
    read_kernel<<<132 * 4, 512, 0, stream()>>>(reinterpret_cast<const Vec16*>(pool.data()),
                                               WeightPool::kBytes / 16, sink.data());
  });
  return static_cast<double>(WeightPool::kBytes) / us / 1e3;
}

// Launches of a graph: as many as fill some milliseconds.
inline int launches_for(int64_t bytes) {
  const int64_t count = (int64_t{6} << 30) / bytes / 4;
  return static_cast<int>(std::min<int64_t>(64, std::max<int64_t>(8, count)));
}

}  // namespace atom::gpu::device_test
