// Linear layers as they are defined: every weight decoded to f32, sums in double over k in order.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/reference/reference_kernels.h"

namespace atom::cpu {

StoredRow stored_row(const RowSource& source, int64_t row) {
  if (source.rotary_heads > 0) {
    const int64_t head_rows = source.rows / source.rotary_heads;
    const int64_t head = row / head_rows;
    const int64_t i = row % head_rows;
    const int64_t half = head_rows / 2;
    row = head * head_rows + (i < half ? 2 * i : 2 * (i - half) + 1);
  }
  row = source.first_row + row * source.row_step;
  return {.source = &source, .row = row, .data = source.data + row * source.row_bytes};
}

StoredRow stored_row(const PackArgs& args, int64_t row) {
  const RowSource* source = args.sources;
  while (row >= source->rows) {
    row -= source->rows;
    ++source;
  }
  return stored_row(*source, row);
}

namespace reference {
namespace {

constexpr int64_t kChunk =
    256;  // values of a weight row decoded at a time; a multiple of every block
constexpr int64_t kTokenTile = 64;  // rows of x that share a decoded chunk

// Packed: rows one after the other, each with its values as stored, its scales, its zero points.
struct PackedRow {
  int64_t value_bytes = 0;
  int64_t scale_bytes = 0;
  int64_t zero_bytes = 0;

  PackedRow(const DataFormat& format, int64_t cols) {
    value_bytes = row_bytes(format.dtype, cols);
    if (has_scales(format)) {
      scale_bytes = scales_per_row(format, cols) * dtype_bytes(format.scale_dtype, 1);
      zero_bytes = format.has_zeros ? scales_per_row(format, cols) : 0;
    }
  }
  int64_t bytes() const { return value_bytes + scale_bytes + zero_bytes; }
};

void dot_row(const LinearArgs& args, int64_t row, Range tokens) {
  const PackedRow layout(args.format, args.cols);
  const uint8_t* packed = args.weight + row * layout.bytes();
  const RowSource source{.data = packed,
                         .rows = 1,
                         .format = args.format,
                         .cols = args.cols,
                         .scales = packed + layout.value_bytes,
                         .zeros = packed + layout.value_bytes + layout.scale_bytes};
  const StoredRow weight = stored_row(source, 0);
  double sums[kTokenTile] = {};
  float values[kChunk];
  for (int64_t k = 0; k < args.cols; k += kChunk) {
    const int64_t count = std::min(kChunk, args.cols - k);
    dequantize_row(weight, k, count, values);
    for (int64_t m = tokens.begin; m < tokens.end; ++m) {
      const float* x = args.x + m * args.cols + k;
      double sum = sums[m - tokens.begin];
      for (int64_t i = 0; i < count; ++i) {
        sum += static_cast<double>(values[i]) * static_cast<double>(x[i]);
      }
      sums[m - tokens.begin] = sum;
    }
  }
  const double bias = args.bias == nullptr ? 0.0 : static_cast<double>(args.bias[row]);
  for (int64_t m = tokens.begin; m < tokens.end; ++m) {
    args.out[m * args.out_stride + row] = static_cast<float>(sums[m - tokens.begin] + bias);
  }
}

}  // namespace

int64_t packed_bytes(int32_t, const DataFormat& format, int64_t rows, int64_t cols) {
  return rows * PackedRow(format, cols).bytes();
}

int32_t choose_linear(const DataFormat&, int64_t, bool) { return kStoredRows; }

void pack(int32_t, const PackArgs& args, Range panels) {
  const PackedRow layout(args.format, args.cols);
  const int64_t end = std::min(panels.end * kPanelRows, args.rows);
  for (int64_t row = panels.begin * kPanelRows; row < end; ++row) {
    const StoredRow stored = stored_row(args, row);
    uint8_t* to = args.out + row * layout.bytes();
    memcpy(to, stored.data, static_cast<size_t>(layout.value_bytes));
    if (layout.scale_bytes > 0) {
      memcpy(to + layout.value_bytes, scale_row(stored), static_cast<size_t>(layout.scale_bytes));
    }
    if (layout.zero_bytes > 0) {
      memcpy(to + layout.value_bytes + layout.scale_bytes, zero_row(stored),
             static_cast<size_t>(layout.zero_bytes));
    }
  }
}

int64_t input_bytes(int32_t, int64_t, int64_t) { return 0; }

void prepare_input(int32_t, const LinearArgs&, uint8_t*, Range) {}

void linear(int32_t, const LinearArgs& args, Range tokens, Range panels) {
  const int64_t end = std::min(panels.end * kPanelRows, args.rows);
  for (int64_t row = panels.begin * kPanelRows; row < end; ++row) {
    for (int64_t m = tokens.begin; m < tokens.end; m += kTokenTile) {
      dot_row(args, row, {m, std::min(m + kTokenTile, tokens.end)});
    }
  }
}

}  // namespace reference
}  // namespace atom::cpu
