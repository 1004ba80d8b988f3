// LinearWeight: a weight of a linear layer, packed once at load for the kernels of one backend.
// Several checkpoint tensors (q, k, v; gate, up) become one weight; each part keeps its own format,
// because real checkpoints mix them (Q4_K with Q6_K).
#pragma once

#include <cstdint>
#include <vector>

#include "atom/core/buffer.h"
#include "atom/core/data_format.h"
#include "atom/core/tensor.h"

namespace atom {

namespace cpu {
struct RowSource;
}

// One checkpoint tensor, as stored: [rows, cols] = [out_features, in_features]. A view: rows of a
// larger tensor (an expert of a stacked one, every second row) are a part of their own.
struct WeightPart {
  const void* data = nullptr;  // may be unaligned
  DataFormat format;
  int64_t rows = 0;
  int64_t cols = 0;
  // > 0: rows are in GGUF's interleaved rotary order for this many heads: within a head of d rows,
  // stored row 2i is logical row i and stored row 2i + 1 is logical row i + d/2. Packing restores
  // logical order.
  int64_t rotary_heads = 0;
  bool on_device = false;  // bf16, made there (dummy weights)
  // Separate scales and zero points (DataFormat), [ceil(stored rows / block_n), scales_per_row]
  const void* scales = nullptr;
  const uint8_t* zeros = nullptr;
  int64_t row_bytes = 0;  // from stored row to stored row; 0: rows are dense
  int64_t first_row = 0;  // row r is stored row first_row + r * row_step
  int64_t row_step = 1;
};

// Rows begin, begin + step ... of a part (one without rotary_heads), `count` of them.
WeightPart part_rows(const WeightPart& part, int64_t begin, int64_t count, int64_t step = 1);

// The real values of rows [begin, begin + count), in logical order: out [count, cols].
void dequantize_rows(const WeightPart& part, int64_t begin, int64_t count, float* out);

// The part as the kernels see it.
cpu::RowSource row_source(const WeightPart& part);

struct LinearSegment {
  DataFormat format;
  int64_t row_begin = 0;  // first output feature
  int64_t rows = 0;
  int64_t offset = 0;  // bytes into `packed`
  int32_t kernel = 0;  // the backend's own choice, made at pack time
};

struct LinearWeight {
  int64_t out_features = 0;
  int64_t in_features = 0;
  std::vector<LinearSegment> segments;
  Buffer packed;
  Buffer bias;  // f32 [out_features], empty when the layer has none
  // GPU: one segment, `packed` is [out_features, in_features] row-major in its format: bf16, e4m3
  // with one scale per row (real value = stored value * scale), or of kernels/gpu/linear_layout.h.
  Buffer scales;  // f32 [out_features] or as that says, empty when the format has none
  bool defined() const { return out_features > 0; }
};

// One matrix per head, [out_features, in_features] each, packed as one weight in which a head's
// rows are followed by zero rows up to `row_stride`, so that every head starts where kernels can.
struct HeadsWeight {
  static constexpr int64_t kRowAlignment = 16;

  int64_t num_heads = 0;
  int64_t out_features = 0;
  int64_t in_features = 0;
  LinearWeight weight;  // [num_heads * row_stride(), in_features]

  int64_t row_stride() const {
    return (out_features + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
  }
  bool defined() const { return num_heads > 0; }
};

}  // namespace atom
