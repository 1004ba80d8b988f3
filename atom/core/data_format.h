// How the values of one weight are stored: what every quantisation scheme reduces to. Quantisation
// is data: a layer never asks which scheme a checkpoint used.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace atom {

struct DataFormat {
  DType dtype = DType::kBF16;  // storage; GGUF block types carry their scales inside the block
  // Separate scales (FP8, INT8, INT4 ... of safetensors checkpoints): one per [block_n, block_k]
  // tile of the [out_features, in_features] weight. 0 = no separate scales; -1 = the whole extent.
  int64_t block_n = 0;
  int64_t block_k = 0;
  DType scale_dtype = DType::kF32;

  bool operator==(const DataFormat&) const = default;
};

}  // namespace atom
