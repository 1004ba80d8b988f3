// Rows moved, combined, converted and made up: embedding, gather, SiLU * mul, quantisation, casts
// and dummy weights.
#include "kernels/common/dummy.h"
#include "kernels/gpu/primitives/launch.h"
#include "kernels/gpu/primitives/warp.h"
#include "kernels/gpu/vector_ops.h"
#include "kernels/gpu/vector_ops/row_io.h"

namespace atom::gpu {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

LaunchShape shape_for(int64_t threads, DeviceStream stream) {
  return {.grid = dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads)),
          .block = dim3(kThreads),
          .stream = static_cast<cudaStream_t>(stream)};
}

template <class Out>
__global__ void __launch_bounds__(kThreads) embedding_kernel(const EmbeddingArgs args) {
  const int64_t pieces = args.hidden_size / 8;
  const int64_t i = thread_index();
  wait_previous();
  allow_next();  // see launch.h: what a step's first kernels read is complete for all that follow
  if (i >= args.num_tokens * pieces) {
    return;
  }
  const int64_t id = args.ids[i / pieces];
  const int64_t row = id >= 0 && id < args.vocab_size ? id : 0;
  float values[8];
  load8(args.table + row * args.hidden_size + i % pieces * 8, values);
  store8(static_cast<Out*>(args.out) + i * 8, values);
}

__global__ void __launch_bounds__(kThreads) gather_rows_kernel(const GatherRowsArgs args) {
  const int64_t pieces = args.size / 8;
  const int64_t i = thread_index();
  allow_next();
  wait_previous();
  if (i >= args.num_rows * pieces) {
    return;
  }
  const int64_t from = args.rows[i / pieces];
  const int64_t row = from >= 0 && from < args.num_tokens ? from : 0;
  store16(args.out + i * 8, load16(args.x + row * args.size + i % pieces * 8));
}

// gate = silu(gate) * up. Fast exponential and division: two units in the last place of f32, where
// the exact ones take longer than the memory does.
__device__ __forceinline__ void gate_with(float (&gate)[8], const float (&up)[8]) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    gate[j] = __fdividef(gate[j], 1.0F + __expf(-gate[j])) * up[j];
  }
}

// Pieces are counted in 32 bits: a division in 64 takes longer than all the rest.
__global__ void __launch_bounds__(kThreads) silu_mul_kernel(const SiluMulArgs args) {
  const auto pieces = static_cast<uint32_t>(args.size / 8);
  const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  allow_next();
  wait_previous();
  if (i >= args.num_tokens * pieces) {
    return;
  }
  const int64_t token = i / pieces;
  const int64_t column = i % pieces * 8;
  const uint16_t* row = args.gate_up + token * 2 * args.size + column;
  const float scale = row_scale(args.gate_up_scales, token);
  float gate[8];
  float up[8];
  load8(row, gate);
  load8(row + args.size, up);
  scale8(args.gate_up_scales, scale, column, gate);
  scale8(args.gate_up_scales, scale, args.size + column, up);
  gate_with(gate, up);
  store8(args.out + static_cast<int64_t>(i) * 8, gate);
}

// The same, quantised: one block a row, which stays in registers until its scale is known.
constexpr int64_t kLongestRow = 32768;

template <int kPieces, int kRowThreads>
__global__ void __launch_bounds__(kRowThreads) silu_mul_quantize_kernel(const SiluMulArgs args) {
  __shared__ float shared[kRowThreads / kWarpSize];
  const int64_t row = blockIdx.x;
  const uint16_t* gate_up = args.gate_up + row * 2 * args.size;
  const int size = static_cast<int>(args.size);
  const auto column = [](int piece) {
    return (piece * kRowThreads + static_cast<int>(threadIdx.x)) * 8;
  };
  allow_next();
  wait_previous();
  Vec16 gates[kPieces];
  Vec16 ups[kPieces];
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    if (column(p) < size) {
      gates[p] = load16(gate_up + column(p));
      ups[p] = load16(gate_up + size + column(p));
    }
  }
  const float row_factor = row_scale(args.gate_up_scales, row);
  float values[kPieces][8];
  float largest = 0.0F;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    if (column(p) < size) {
      float up[8];
      unpack_bf16(gates[p], values[p]);
      unpack_bf16(ups[p], up);
      scale8(args.gate_up_scales, row_factor, column(p), values[p]);
      scale8(args.gate_up_scales, row_factor, size + column(p), up);
      gate_with(values[p], up);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        largest = fmaxf(largest, fabsf(values[p][j]));
      }
      if (args.out != nullptr) {
        store8(args.out + row * size + column(p), values[p]);
      }
    }
  }
  largest = reduce_block<MaxOf>(largest, shared);
  const float scale = largest > 0.0F ? largest / kE4M3Largest : 1.0F;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    if (column(p) < size) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        values[p][j] = __fdividef(values[p][j], scale);
      }
      store8(args.out_fp8 + row * size + column(p), values[p]);
    }
  }
  if (threadIdx.x == 0) {
    args.out_scales[row] = scale;
  }
}

template <class Out>
__global__ void __launch_bounds__(kThreads) add_bias_kernel(const AddBiasArgs args) {
  const int64_t pieces = args.size / 8;
  const int64_t i = thread_index();
  allow_next();
  wait_previous();
  if (i >= args.num_rows * pieces) {
    return;
  }
  Out* out = static_cast<Out*>(args.out) + i * 8;
  float values[8];
  float bias[8];
  load8(out, values);
  load8(args.bias + i % pieces * 8, bias);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    values[j] += bias[j];
  }
  store8(out, values);
}

template <class Out>
__global__ void __launch_bounds__(kThreads) scale_outer_kernel(const ScaleOuterArgs args) {
  const int64_t pieces = args.size / 8;
  const int64_t i = thread_index();
  allow_next();
  wait_previous();
  if (i >= args.num_rows * pieces) {
    return;
  }
  Out* out = static_cast<Out*>(args.out) + i * 8;
  const float row = args.row_scales[i / pieces];
  float values[8];
  float columns[8];
  load8(out, values);
  load8(args.column_scales + i % pieces * 8, columns);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    values[j] *= row * columns[j];
  }
  store8(out, values);
}

// One block a row; the second reading of the row comes from the caches.
__global__ void __launch_bounds__(kThreads) quantize_rows_kernel(const QuantizeRowsArgs args) {
  __shared__ float shared[kThreads / kWarpSize];
  const uint16_t* x = args.x + blockIdx.x * args.size;
  allow_next();
  wait_previous();
  float largest = 0.0F;
  for (int64_t i = threadIdx.x * 8; i < args.size; i += kThreads * 8) {
    float values[8];
    load8(x + i, values);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      largest = fmaxf(largest, fabsf(values[j]));
    }
  }
  largest = reduce_block<MaxOf>(largest, shared);
  const float scale = largest > 0.0F ? largest / kE4M3Largest : 1.0F;
  for (int64_t i = threadIdx.x * 8; i < args.size; i += kThreads * 8) {
    float values[8];
    load8(x + i, values);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      values[j] /= scale;
    }
    store8(args.out + blockIdx.x * args.size + i, values);
  }
  if (threadIdx.x == 0) {
    args.scales[blockIdx.x] = scale;
  }
}

__global__ void __launch_bounds__(kThreads)
    fill_random_kernel(uint64_t state, float limit, uint16_t* out, int64_t count) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = thread_index(); i < count; i += stride) {
    out[i] = to_bf16(dummy_value(state, static_cast<uint64_t>(i)) * limit);
  }
}

__device__ __forceinline__ void convert(uint16_t from, float& to) { to = from_bf16(from); }
__device__ __forceinline__ void convert(float from, uint16_t& to) { to = to_bf16(from); }

template <class From, class To>
__global__ void __launch_bounds__(kThreads) cast_kernel(const From* from, To* to, int64_t count) {
  const int64_t i = thread_index() * 8;
  allow_next();
  wait_previous();
  if (i + 8 <= count) {
    float values[8];
    load8(from + i, values);
    store8(to + i, values);
  } else {
    for (int64_t j = i; j < count; ++j) {
      convert(from[j], to[j]);
    }
  }
}

}  // namespace

DeviceStatus embedding(const EmbeddingArgs& args, DeviceStream stream) {
  if (args.hidden_size % 8 != 0) {
    return "embedding: the row size is not a multiple of 8";
  }
  const int64_t threads = args.num_tokens * args.hidden_size / 8;
  if (threads == 0) {
    return nullptr;
  }
  const LaunchShape shape = shape_for(threads, stream);
  return args.out_dtype == DType::kF32 ? launch_chained(embedding_kernel<float>, shape, args)
                                       : launch_chained(embedding_kernel<uint16_t>, shape, args);
}

DeviceStatus gather_rows(const GatherRowsArgs& args, DeviceStream stream) {
  if (args.size % 8 != 0) {
    return "gather_rows: the row size is not a multiple of 8";
  }
  const int64_t threads = args.num_rows * args.size / 8;
  return threads == 0 ? nullptr
                      : launch_chained(gather_rows_kernel, shape_for(threads, stream), args);
}

DeviceStatus silu_mul(const SiluMulArgs& args, DeviceStream stream) {
  if (args.size % 8 != 0) {
    return "silu_mul: the row size is not a multiple of 8";
  }
  const int64_t threads = args.num_tokens * args.size / 8;
  if (threads == 0) {
    return nullptr;
  }
  if (args.out_fp8 == nullptr) {
    if (threads > 0x7fffffff) {
      return "silu_mul: more than 2^34 values";
    }
    return launch_chained(silu_mul_kernel, shape_for(threads, stream), args);
  }
  if (args.size > kLongestRow) {
    return "silu_mul: a row to be quantised has more than 32768 values";
  }
  LaunchShape shape{.grid = dim3(static_cast<unsigned>(args.num_tokens)),
                    .block = dim3(512),
                    .stream = static_cast<cudaStream_t>(stream)};
  if (args.size > kLongestRow / 2) {
    return launch_chained(silu_mul_quantize_kernel<8, 512>, shape, args);
  }
  if (args.num_tokens > multiprocessor_count()) {
    return launch_chained(silu_mul_quantize_kernel<4, 512>, shape, args);
  }
  shape.block.x = 1024;
  return launch_chained(silu_mul_quantize_kernel<2, 1024>, shape, args);
}

DeviceStatus quantize_rows(const QuantizeRowsArgs& args, DeviceStream stream) {
  if (args.size % 8 != 0) {
    return "quantize_rows: the row size is not a multiple of 8";
  }
  return args.num_rows == 0 ? nullptr
                            : launch_chained(quantize_rows_kernel,
                                             shape_for(args.num_rows * kThreads, stream), args);
}

DeviceStatus add_bias(const AddBiasArgs& args, DeviceStream stream) {
  if (args.size % 8 != 0) {
    return "add_bias: the row size is not a multiple of 8";
  }
  const int64_t threads = args.num_rows * args.size / 8;
  if (threads == 0) {
    return nullptr;
  }
  const LaunchShape shape = shape_for(threads, stream);
  return args.dtype == DType::kF32 ? launch_chained(add_bias_kernel<float>, shape, args)
                                   : launch_chained(add_bias_kernel<uint16_t>, shape, args);
}

DeviceStatus scale_outer(const ScaleOuterArgs& args, DeviceStream stream) {
  if (args.size % 8 != 0) {
    return "scale_outer: the row size is not a multiple of 8";
  }
  const int64_t threads = args.num_rows * args.size / 8;
  if (threads == 0) {
    return nullptr;
  }
  const LaunchShape shape = shape_for(threads, stream);
  return args.dtype == DType::kF32 ? launch_chained(scale_outer_kernel<float>, shape, args)
                                   : launch_chained(scale_outer_kernel<uint16_t>, shape, args);
}

DeviceStatus fill_random(uint64_t state, float limit, uint16_t* out, int64_t count,
                         DeviceStream stream) {
  if (count == 0) {
    return nullptr;
  }
  LaunchShape shape = shape_for(count, stream);
  const auto most = static_cast<unsigned>(multiprocessor_count() * 64);
  shape.grid.x = shape.grid.x < most ? shape.grid.x : most;
  return launch(fill_random_kernel, shape, state, limit, out, count);
}

DeviceStatus cast_bf16_to_f32(const uint16_t* from, float* to, int64_t count, DeviceStream stream) {
  return count == 0 ? nullptr
                    : launch_chained(cast_kernel<uint16_t, float>,
                                     shape_for((count + 7) / 8, stream), from, to, count);
}

DeviceStatus cast_f32_to_bf16(const float* from, uint16_t* to, int64_t count, DeviceStream stream) {
  return count == 0 ? nullptr
                    : launch_chained(cast_kernel<float, uint16_t>,
                                     shape_for((count + 7) / 8, stream), from, to, count);
}

}  // namespace atom::gpu
