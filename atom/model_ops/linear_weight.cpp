#include "atom/model_ops/linear_weight.h"

#include "kernels/cpu/kernels.h"

namespace atom {

WeightPart part_rows(const WeightPart& part, int64_t begin, int64_t count, int64_t step) {
  ATOM_CHECK(part.rotary_heads == 0 && begin >= 0 && count >= 0 &&
             (count == 0 || begin + (count - 1) * step < part.rows))
      << "rows " << begin << " + " << count << " * " << step << " of " << part.rows;
  WeightPart rows = part;
  rows.first_row = part.first_row + begin * part.row_step;
  rows.row_step = part.row_step * step;
  rows.rows = count;
  return rows;
}

cpu::RowSource row_source(const WeightPart& part) {
  return {
      .data = static_cast<const uint8_t*>(part.data),
      .rows = part.rows,
      .row_bytes = part.row_bytes > 0 ? part.row_bytes : row_bytes(part.format.dtype, part.cols),
      .rotary_heads = part.rotary_heads,
      .format = part.format,
      .cols = part.cols,
      .scales = static_cast<const uint8_t*>(part.scales),
      .zeros = part.zeros,
      .first_row = part.first_row,
      .row_step = part.row_step};
}

void dequantize_rows(const WeightPart& part, int64_t begin, int64_t count, float* out) {
  const cpu::RowSource source = row_source(part);
  for (int64_t row = begin; row < begin + count; ++row, out += part.cols) {
    cpu::dequantize_row(cpu::stored_row(source, row), 0, part.cols, out);
  }
}

}  // namespace atom
