#include "atom/models/int8_parts.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace atom {
namespace {

constexpr int64_t kRowsPerItem = 64;

bool is_float(const DataFormat& format) {
  const DType dtype = format.dtype;
  return !has_scales(format) &&
         (dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16);
}

void round_row(std::span<const float> row, int8_t* out, float* scale) {
  float top = 0.0F;
  bool finite = true;
  for (const float value : row) {
    top = std::max(top, std::fabs(value));
    finite = finite && std::isfinite(value);
  }
  if (!finite || top == 0.0F) {
    std::fill_n(out, row.size(), int8_t{0});
    *scale = finite ? 0.0F : std::numeric_limits<float>::quiet_NaN();
    return;
  }
  *scale = top / 127.0F;
  for (size_t i = 0; i < row.size(); ++i) {
    out[i] = static_cast<int8_t>(std::lrintf(row[i] / *scale));
  }
}

Result<WeightPart> round_part(const ParallelFor& parallel, const WeightPart& part, Buffer& memory) {
  const int64_t scale_bytes = part.rows * static_cast<int64_t>(sizeof(float));
  ATOM_ASSIGN_OR_RETURN(memory, Buffer::allocate(scale_bytes + part.rows * part.cols));
  auto* scales = static_cast<float*>(memory.data());
  auto* values = static_cast<int8_t*>(memory.data()) + scale_bytes;
  parallel((part.rows + kRowsPerItem - 1) / kRowsPerItem, [&](int64_t item) {
    const int64_t begin = item * kRowsPerItem;
    const int64_t count = std::min(kRowsPerItem, part.rows - begin);
    std::vector<float> rows(static_cast<size_t>(count * part.cols));
    dequantize_rows(part, begin, count, rows.data());
    for (int64_t r = 0; r < count; ++r) {
      const auto row = std::span(rows).subspan(static_cast<size_t>(r * part.cols),
                                               static_cast<size_t>(part.cols));
      round_row(row, values + (begin + r) * part.cols, scales + begin + r);
    }
  });
  return WeightPart{
      .data = values,
      .format = {.dtype = DType::kI8, .block_n = 1, .block_k = -1, .scale_dtype = DType::kF32},
      .rows = part.rows,
      .cols = part.cols,
      .scales = scales};
}

}  // namespace

Result<Int8Parts> to_int8(const ParallelFor& parallel, std::span<const WeightPart> parts) {
  Int8Parts out;
  for (const WeightPart& part : parts) {
    out.parts.push_back(part);
    if (is_float(part.format)) {
      ATOM_ASSIGN_OR_RETURN(out.parts.back(),
                            round_part(parallel, part, out.memory.emplace_back()));
    }
  }
  return out;
}

}  // namespace atom
