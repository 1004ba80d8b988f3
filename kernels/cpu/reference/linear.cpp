// Linear layers as they are defined: every weight decoded to f32, sums in double over k in order.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/reference/reference_kernels.h"

namespace atom::cpu {

const uint8_t* source_row(const PackArgs& args, int64_t row) {
  const RowSource* source = args.sources;
  while (row >= source->rows) {
    row -= source->rows;
    ++source;
  }
  if (source->rotary_heads > 0) {
    const int64_t head_rows = source->rows / source->rotary_heads;
    const int64_t head = row / head_rows;
    const int64_t i = row % head_rows;
    const int64_t half = head_rows / 2;
    row = head * head_rows + (i < half ? 2 * i : 2 * (i - half) + 1);
  }
  return source->data + row * source->row_bytes;
}

namespace reference {
namespace {

constexpr int64_t kChunk =
    256;  // values of a weight row decoded at a time; a multiple of every block
constexpr int64_t kTokenTile = 64;  // rows of x that share a decoded chunk

void dot_row(const LinearArgs& args, int64_t row, Range tokens) {
  const uint8_t* weight = args.weight + row * dtype_bytes(args.dtype, args.cols);
  double sums[kTokenTile] = {};
  float values[kChunk];
  for (int64_t k = 0; k < args.cols; k += kChunk) {
    const int64_t count = std::min(kChunk, args.cols - k);
    dequantize(args.dtype, weight, k, count, values);
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

int64_t packed_bytes(int32_t, DType dtype, int64_t rows, int64_t cols) {
  return rows * dtype_bytes(dtype, cols);
}

int32_t choose_linear(DType, bool) { return kStoredRows; }

void pack(int32_t, const PackArgs& args, Range panels) {
  const int64_t row_bytes = dtype_bytes(args.dtype, args.cols);
  const int64_t end = std::min(panels.end * kPanelRows, args.rows);
  for (int64_t row = panels.begin * kPanelRows; row < end; ++row) {
    memcpy(args.out + row * row_bytes, source_row(args, row), static_cast<size_t>(row_bytes));
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
