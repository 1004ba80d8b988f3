#include "atom/model_ops/device_linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "atom/model_ops/device_weights.h"
#include "kernels/common/convert.h"
#include "kernels/cpu/kernels.h"
#include "kernels/gpu/linear_layout.h"

namespace atom {
namespace {

using gpu::kGroupValues;
using gpu::kPackedRowMultiple;

constexpr int64_t kShortGroup = 32;
constexpr int64_t kTogether = 64;  // rows whose scales a thread makes, a multiple of 8
// Exponent to which the largest scale of a row is brought before scales become f16.
constexpr int kF16ScaleExponent = 14;
constexpr uint8_t kMiddle = 8;  // the zero point of u4 without zero points

bool whole_rows(const DataFormat& format, int64_t cols) {
  return format.block_k <= 0 || format.block_k >= cols;
}

bool multiple_of(int64_t value, int64_t of) { return value > 0 && value % of == 0; }

DataFormat bytes_format(const WeightPart& part) {
  const DataFormat& stored = part.format;
  if (part.cols % 16 != 0) {
    return {};
  }
  if (whole_rows(stored, part.cols)) {
    return {.dtype = stored.dtype, .block_n = 1, .block_k = -1};
  }
  const bool rows_in_order =
      part.rotary_heads == 0 && part.row_step == 1 && part.first_row % kPackedRowMultiple == 0;
  const bool blocks = stored.block_n == -1 || multiple_of(stored.block_n, kPackedRowMultiple);
  if (stored.dtype == DType::kF8E4M3 && multiple_of(stored.block_k, kGroupValues) && blocks &&
      rows_in_order) {
    return {.dtype = stored.dtype, .block_n = kPackedRowMultiple, .block_k = kGroupValues};
  }
  return {};
}

bool has_other_zeros(const WeightPart& part) {
  if (!part.format.has_zeros) {
    return false;
  }
  const cpu::RowSource source = row_source(part);
  const int64_t tiles = scales_per_row(part.format, part.cols);
  for (int64_t row = 0; row < part.rows; ++row) {
    const uint8_t* from = cpu::zero_row(cpu::stored_row(source, row));
    if (std::any_of(from, from + tiles, [](uint8_t zero) { return zero != kMiddle; })) {
      return true;
    }
  }
  return false;
}

DataFormat int4_format(const WeightPart& part) {
  const DataFormat& stored = part.format;
  const bool long_groups =
      whole_rows(stored, part.cols) || multiple_of(stored.block_k, kGroupValues);
  const bool short_groups = kGroupValues % std::max<int64_t>(1, stored.block_k) == 0 &&
                            multiple_of(stored.block_k, kShortGroup);
  if (stored.block_n != 1 || part.cols % kShortGroup != 0 || !(long_groups || short_groups)) {
    return {};
  }
  return {.dtype = DType::kU4,
          .block_n = 1,
          .block_k = long_groups ? kGroupValues : kShortGroup,
          .has_zeros = has_other_zeros(part)};
}

// Exponents of 2 that the kernels' arithmetic holds.
bool exponents_fit(const WeightPart& part) {
  const cpu::RowSource source = row_source(part);
  for (int64_t row = 0; row < part.rows; ++row) {
    const uint8_t* from = cpu::scale_row(cpu::stored_row(source, row));
    if (std::any_of(from, from + part.cols / kShortGroup,
                    [](uint8_t byte) { return byte == 0 || byte > gpu::kLargestExponent; })) {
      return false;
    }
  }
  return true;
}

DataFormat mxfp4_format(const WeightPart& part) {
  const DataFormat& stored = part.format;
  const bool known = stored.block_n == 1 && stored.block_k == kShortGroup &&
                     stored.scale_dtype == DType::kF8E8M0 && part.cols % kShortGroup == 0;
  if (!known || !exponents_fit(part)) {
    return {};
  }
  return {
      .dtype = stored.dtype, .block_n = 1, .block_k = kShortGroup, .scale_dtype = DType::kF8E8M0};
}

DataFormat format_of(const WeightPart& part) {
  if (part.on_device || part.scales == nullptr || part.rows % kPackedRowMultiple != 0) {
    return {};
  }
  switch (part.format.dtype) {
    case DType::kF8E4M3:
    case DType::kI8:
      return bytes_format(part);
    case DType::kU4:
      return int4_format(part);
    case DType::kF4E2M1:
      return mxfp4_format(part);
    default:
      return {};
  }
}

// One 128 values of a row of nibbles from value `first` on, in the device's order.
void pack_group(const uint8_t* row, int64_t first, int64_t cols, uint8_t* out) {
  for (int64_t q = 0; q < 4; ++q) {
    for (int64_t p = 0; p < 4; ++p) {
      const int64_t value = first + gpu::nibble_value(q, p);
      uint32_t word = 0;
      if (value < cols) {  // eight at a time: cols are a multiple of 32
        std::memcpy(&word, row + value / 2, sizeof(word));
      }
      word = gpu::pack_nibbles(word);
      std::memcpy(out + gpu::nibble_word(q, p) * 4, &word, sizeof(word));
    }
  }
}

// --- scales: all of a weight, in host memory, `first` the part's first row ---

struct ScaleTable {
  std::vector<uint8_t> bytes;
  int64_t rows = 0;
  int64_t cols = 0;

  template <class T>
  void set(int64_t offset, int64_t index, T value) {
    std::memcpy(bytes.data() + offset + index * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
  }
};

float scale_at(const WeightPart& part, const uint8_t* scales, int64_t tile) {
  float value = 0;
  cpu::dequantize(part.format.scale_dtype, scales, tile, 1, &value);
  return value;
}

// Rows [begin, end) of a part, whose first row is row `first` of the weight.
struct PartRows {
  const WeightPart& part;
  int64_t begin = 0;
  int64_t end = 0;
  int64_t first = 0;
};

void add_row_scales(const PartRows& rows, ScaleTable& out) {
  const cpu::RowSource source = row_source(rows.part);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    out.set(0, rows.first + row,
            scale_at(rows.part, cpu::scale_row(cpu::stored_row(source, row)), 0));
  }
}

void add_block_scales(const PartRows& rows, ScaleTable& out) {
  const WeightPart& part = rows.part;
  const cpu::RowSource source = row_source(part);
  const int64_t pitch = gpu::block_scale_pitch(out.rows);
  for (int64_t row = rows.begin; row < rows.end; row += kPackedRowMultiple) {
    const uint8_t* scales = cpu::scale_row(cpu::stored_row(source, row));
    for (int64_t group = 0; group < gpu::scale_groups(out.cols); ++group) {
      out.set(0, group * pitch + (rows.first + row) / kPackedRowMultiple,
              scale_at(part, scales, group * kGroupValues / part.format.block_k));
    }
  }
}

// Scales as f16, of which each row's largest is close to 2^15, and what that leaves out.
void add_int4_scales(const PartRows& rows, const DataFormat& format, ScaleTable& out) {
  const WeightPart& part = rows.part;
  const cpu::RowSource source = row_source(part);
  const int64_t each = kGroupValues / format.block_k;
  const int64_t offset = gpu::u4_scales_offset(out.rows);
  const int64_t zeros = offset + gpu::u4_scales_bytes(out.rows, out.cols, format.block_k);
  const int64_t tiles = scales_per_row(part.format, part.cols);
  std::vector<float> scales(static_cast<size_t>(tiles));
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const cpu::StoredRow stored = cpu::stored_row(source, row);
    cpu::dequantize(part.format.scale_dtype, cpu::scale_row(stored), 0, tiles, scales.data());
    float largest = 0;
    for (const float scale : scales) {
      largest = std::max(largest, std::abs(scale));
    }
    const float factor =
        largest > 0 ? std::ldexp(1.0F, std::ilogb(largest) - kF16ScaleExponent) : 1.0F;
    out.set(0, rows.first + row, factor);
    for (int64_t k = 0; k < out.cols; k += format.block_k) {
      const int64_t tile = whole_rows(part.format, part.cols) ? 0 : k / part.format.block_k;
      const int64_t at = (k / kGroupValues * out.rows + rows.first + row) * each +
                         k % kGroupValues / format.block_k;
      out.set(offset, at, f32_to_f16(scales[static_cast<size_t>(tile)] / factor));
      if (format.has_zeros) {
        out.set(zeros, at, part.format.has_zeros ? cpu::zero_row(stored)[tile] : kMiddle);
      }
    }
  }
}

void add_exponents(const PartRows& rows, ScaleTable& out) {
  const cpu::RowSource source = row_source(rows.part);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    const uint8_t* from = cpu::scale_row(cpu::stored_row(source, row));
    for (int64_t k = 0; k < out.cols; k += kShortGroup) {
      out.set(0,
              (k / kGroupValues * out.rows + rows.first + row) * 4 + k % kGroupValues / kShortGroup,
              from[k / kShortGroup]);
    }
  }
}

int64_t scale_bytes(const DataFormat& format, int64_t rows, int64_t cols) {
  const int64_t groups = gpu::scale_groups(cols);
  switch (format.dtype) {
    case DType::kF8E4M3:
      return 4 * (format.block_k > 0 ? groups * gpu::block_scale_pitch(rows) : rows);
    case DType::kI8:
      return 4 * rows;
    case DType::kU4: {
      const int64_t scales = gpu::u4_scales_bytes(rows, cols, format.block_k);
      return gpu::u4_scales_offset(rows) + scales + (format.has_zeros ? scales / 2 : 0);
    }
    default:
      return groups * rows * 4;
  }
}

void add_scales(const PartRows& rows, const DataFormat& format, ScaleTable& out) {
  if (format.dtype == DType::kU4) {
    add_int4_scales(rows, format, out);
  } else if (format.dtype == DType::kF4E2M1) {
    add_exponents(rows, out);
  } else if (format.block_k > 0) {
    add_block_scales(rows, out);
  } else {
    add_row_scales(rows, out);
  }
}

int64_t total_rows(std::span<const WeightPart> parts) {
  int64_t rows = 0;
  for (const WeightPart& part : parts) {
    rows += part.rows;
  }
  return rows;
}

}  // namespace

DataFormat device_linear_format(std::span<const WeightPart> parts) {
  DataFormat all = format_of(parts.front());
  for (const WeightPart& part : parts.subspan(1)) {
    DataFormat one = format_of(part);
    const bool has_zeros = one.has_zeros || all.has_zeros;
    one.has_zeros = all.has_zeros = has_zeros;
    if (one != all) {
      return {};
    }
  }
  return all;
}

int64_t device_linear_bytes(const DataFormat& format, int64_t rows, int64_t cols) {
  return rows * gpu::packed_row_bytes(format.dtype, cols) +
         (format.dtype == DType::kBF16 ? 0 : scale_bytes(format, rows, cols));
}

void pack_device_row(const WeightPart& part, int64_t row, uint8_t* out) {
  const cpu::RowSource source = row_source(part);
  const uint8_t* from = cpu::stored_row(source, row).data;
  if (!gpu::is_nibbles(part.format.dtype)) {
    std::memcpy(out, from, static_cast<size_t>(part.cols));
    return;
  }
  for (int64_t first = 0; first < part.cols; first += kGroupValues) {
    pack_group(from, first, part.cols, out + first / 2);
  }
}

std::vector<uint8_t> pack_device_scales(std::span<const WeightPart> parts, const DataFormat& format,
                                        const ParallelFor& parallel) {
  ScaleTable scales{.bytes = {}, .rows = total_rows(parts), .cols = parts.front().cols};
  scales.bytes.resize(static_cast<size_t>(scale_bytes(format, scales.rows, scales.cols)));
  int64_t first = 0;
  for (const WeightPart& part : parts) {
    parallel((part.rows + kTogether - 1) / kTogether, [&](int64_t piece) {
      const int64_t begin = piece * kTogether;
      add_scales({.part = part,
                  .begin = begin,
                  .end = std::min(begin + kTogether, part.rows),
                  .first = first},
                 format, scales);
    });
    first += part.rows;
  }
  return std::move(scales.bytes);
}

Status pack_stored_linear(const ExecContext& ctx, std::span<const WeightPart> parts,
                          const DataFormat& format, LinearWeight& out) {
  out.in_features = parts.front().cols;
  out.out_features = total_rows(parts);
  out.segments = {{.format = format, .rows = out.out_features}};
  const int64_t row_size = gpu::packed_row_bytes(format.dtype, out.in_features);
  ATOM_ASSIGN_OR_RETURN(out.packed, allocate_on(ctx, out.out_features * row_size));
  auto* to = static_cast<uint8_t*>(out.packed.data());
  for (const WeightPart& part : parts) {
    ATOM_RETURN_IF_ERROR(ctx.uploader->made_rows(
        part.rows, row_size, [&](int64_t row, uint8_t* made) { pack_device_row(part, row, made); },
        to));
    to += part.rows * row_size;
  }
  const std::vector<uint8_t> scales = pack_device_scales(parts, format, ctx.parallel);
  ATOM_ASSIGN_OR_RETURN(out.scales, allocate_on(ctx, std::ssize(scales)));
  return ctx.uploader->bytes(scales.data(), std::ssize(scales), out.scales.data());
}

}  // namespace atom
