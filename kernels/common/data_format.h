// How the values of one weight are stored: what every quantisation scheme reduces to. Quantisation
// is data: a layer never asks which scheme a checkpoint used. C++20: device code includes this
// file. To add a format: its dtype (dtype.h), its definition (cpu/reference/dequantize.cpp), its
// panels (cpu/panel_layout.h).
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace atom {

struct DataFormat {
  DType dtype = DType::kBF16;  // storage; GGUF block types carry their scales inside the block
  // Separate scales (FP8, INT8, INT4, MXFP4 of safetensors checkpoints): one per [block_n, block_k]
  // tile of the [out_features, in_features] weight; the last tile of a row or column may be
  // partial. 0 = no separate scales; -1 = the whole extent.
  int64_t block_n = 0;
  int64_t block_k = 0;
  DType scale_dtype = DType::kF32;  // f32, f16, bf16 or e8m0
  bool has_zeros = false;  // kU4: one zero point u8 per scale: (q - zero) * scale; else zero is 8

  bool operator==(const DataFormat&) const = default;
};

constexpr bool has_scales(const DataFormat& format) { return format.block_n != 0; }

// Tiles along a row of `cols` values.
constexpr int64_t scales_per_row(const DataFormat& format, int64_t cols) {
  return format.block_k <= 0 ? 1 : (cols + format.block_k - 1) / format.block_k;
}

// Bytes of one row; a last block may be partial.
constexpr int64_t row_bytes(DType dtype, int64_t cols) {
  const DTypeInfo info = dtype_info(dtype);
  return (cols + info.block_size - 1) / info.block_size * info.block_bytes;
}

}  // namespace atom
