// Weights of fewer than 16 bits to bf16, some rows at a time: for products of so many tokens that
// the vendor's bf16 kernels are worth it.
#include "kernels/gpu/linear/expand.h"

#include "kernels/gpu/linear/weight_formats.h"
#include "kernels/gpu/primitives/launch.h"

namespace atom::gpu {
namespace {

constexpr int kThreads = 256;

// A thread: 16 stored bytes of a row at a time.
template <class Format>
__global__ void __launch_bounds__(kThreads)
    expand_kernel(const LinearArgs args, const int first_row, const int num_rows, uint16_t* out) {
  constexpr int kPieces = 16 / Format::kBits;
  const auto row_bytes = static_cast<int>(
      packed_row_bytes(Format::kBits == 4 ? DType::kU4 : DType::kF8E4M3, args.in_features));
  const int row_pieces = row_bytes / 16;
  const int64_t count = static_cast<int64_t>(num_rows) * row_pieces;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  allow_next();
  wait_previous();
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += stride) {
    const auto row = static_cast<int>(i / row_pieces);
    const auto piece = static_cast<int>(i - static_cast<int64_t>(row) * row_pieces);
    const auto* from = static_cast<const uint8_t*>(args.weight) +
                       static_cast<int64_t>(first_row + row) * row_bytes + piece * 16;
    const Vec16 stored = load16(from);
    const int first = Format::kInterleaved ? piece / 4 * 128 + piece % 4 * 8 : piece * 16;
    const auto group = Format::row_group(args, first_row + row, first / 128);
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const int k = first + p * (Format::kInterleaved ? 32 : 8);
      if (k >= args.in_features) {
        break;
      }
      float scale = Format::template scale<false>(group, p, 0);
      if constexpr (Format::kRowScales) {
        scale *= args.scales[first_row + row];
      }
      float values[8];
      unpack_bf16(Format::template piece<false>(stored, p, group), values);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        values[j] *= scale;
      }
      store16(out + static_cast<int64_t>(row) * args.in_features + k, pack_bf16(values));
    }
  }
}

template <class Format>
DeviceStatus launch_expand(const LinearArgs& args, int64_t first_row, int64_t num_rows,
                           uint16_t* out, DeviceStream stream) {
  return launch_chained(expand_kernel<Format>,
                        {.grid = dim3(static_cast<unsigned>(multiprocessor_count() * 8)),
                         .block = dim3(kThreads),
                         .stream = static_cast<cudaStream_t>(stream)},
                        args, static_cast<int>(first_row), static_cast<int>(num_rows), out);
}

}  // namespace

DeviceStatus expand_rows(const LinearArgs& args, int64_t first_row, int64_t num_rows, uint16_t* out,
                         DeviceStream stream) {
  switch (args.weight_dtype) {
    case DType::kF8E4M3:
      return launch_expand<E4m3BlockFormat>(args, first_row, num_rows, out, stream);
    case DType::kI8:
      return launch_expand<I8Format>(args, first_row, num_rows, out, stream);
    case DType::kU4:
      return args.scale_values == 32
                 ? launch_expand<U4Format<32>>(args, first_row, num_rows, out, stream)
                 : launch_expand<U4Format<128>>(args, first_row, num_rows, out, stream);
    default:
      return launch_expand<E2m1Format>(args, first_row, num_rows, out, stream);
  }
}

}  // namespace atom::gpu
