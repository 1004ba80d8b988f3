#include "atom/model_ops/device_experts.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "atom/core/splitmix64.h"
#include "atom/model_ops/device_weights.h"
#include "kernels/cpu/kernels.h"

namespace atom {
namespace {

constexpr int64_t kBlock = 128;   // columns of an e4m3 scale
constexpr int64_t kTileRows = 8;  // rows that the kernels scale at once
constexpr int64_t kMxBlock = 32;
constexpr uint8_t kLargestMxScale = 128;  // a scale of 2: what the kernels' arithmetic holds

int64_t value_bytes(const StackedExperts& experts) {
  return experts.rows * row_bytes(experts.format.dtype, experts.cols);
}

int64_t scale_bytes(const StackedExperts& experts) {
  switch (experts.format.dtype) {
    case DType::kF8E4M3:
      return experts.rows / experts.scale_rows * experts.scale_cols * int64_t{sizeof(float)};
    case DType::kF4E2M1:
      return experts.rows * (experts.cols / kMxBlock);
    default:
      return 0;
  }
}

bool whole_rows(const DataFormat& format, int64_t cols) {
  return format.block_k <= 0 || format.block_k >= cols;
}

bool keeps_e4m3(const WeightPart& part) {
  const DataFormat& format = part.format;
  const bool scaled =
      has_scales(format) && part.scales != nullptr &&
      (format.block_n == 1 || format.block_n == -1 || format.block_n % kTileRows == 0);
  const bool known =
      whole_rows(format, part.cols) || (format.block_k == kBlock && format.block_n != 1);
  return format.dtype == DType::kF8E4M3 && scaled && known && part.cols % 16 == 0 &&
         part.rows % 16 == 0 && part.row_step == 1;
}

bool keeps_mxfp4(const WeightPart& part) {
  const DataFormat& format = part.format;
  return format.dtype == DType::kF4E2M1 && format.scale_dtype == DType::kF8E8M0 &&
         format.block_n == 1 && format.block_k == kMxBlock && part.cols % kMxBlock == 0;
}

// Scales of a part's rows as the kernels take them, for every row or every 8 rows.
void append_scales(const WeightPart& part, const StackedExperts& experts,
                   std::vector<float>& scales) {
  const cpu::RowSource source = row_source(part);
  for (int64_t row = 0; row < part.rows; row += experts.scale_rows) {
    const uint8_t* from = cpu::scale_row(cpu::stored_row(source, row));
    const size_t at = scales.size();
    scales.resize(at + static_cast<size_t>(experts.scale_cols));
    const int64_t stored = whole_rows(part.format, part.cols) ? 1 : experts.scale_cols;
    cpu::dequantize(part.format.scale_dtype, from, 0, stored, scales.data() + at);
    std::fill(scales.begin() + static_cast<int64_t>(at) + stored, scales.end(), scales[at]);
  }
}

Status append_mx_scales(const WeightPart& part, std::vector<uint8_t>& scales) {
  const cpu::RowSource source = row_source(part);
  for (int64_t row = 0; row < part.rows; ++row) {
    const uint8_t* from = cpu::scale_row(cpu::stored_row(source, row));
    scales.insert(scales.end(), from, from + part.cols / kMxBlock);
  }
  if (std::ranges::any_of(scales, [](uint8_t scale) { return scale > kLargestMxScale; })) {
    return make_error(ErrorCode::kUnsupported,
                      "experts in MXFP4 with scales above 2 have no GPU kernels; use --device cpu");
  }
  return {};
}

Status place_scales(const ExecContext& ctx, const void* from, int64_t e, StackedExperts& out) {
  const int64_t bytes = scale_bytes(out);
  return ctx.uploader->bytes(from, bytes, static_cast<char*>(out.scales.data()) + e * bytes);
}

}  // namespace

DataFormat device_expert_format(std::span<const WeightPart> parts) {
  const DataFormat& format = parts.front().format;
  const bool alike = std::ranges::all_of(
      parts, [&](const WeightPart& part) { return part.format == format && !part.on_device; });
  if (alike &&
      (std::ranges::all_of(parts, keeps_e4m3) || std::ranges::all_of(parts, keeps_mxfp4))) {
    return format;
  }
  return {.dtype = DType::kBF16};
}

Status allocate_experts(const ExecContext& ctx, const DataFormat& format, int64_t count,
                        int64_t rows, int64_t cols, StackedExperts& out) {
  out = {.num_experts = count,
         .rows = rows,
         .cols = cols,
         .format = format,
         .values = {},
         .bias = {},
         .scales = {}};
  if (format.dtype == DType::kF8E4M3) {
    out.scale_rows = format.block_n == 1 ? 1 : static_cast<int32_t>(kTileRows);
    out.scale_cols =
        whole_rows(format, cols) ? 1 : static_cast<int32_t>((cols + kBlock - 1) / kBlock);
  }
  ATOM_ASSIGN_OR_RETURN(out.values, allocate_on(ctx, count * value_bytes(out)));
  if (const int64_t bytes = scale_bytes(out)) {
    ATOM_ASSIGN_OR_RETURN(out.scales, allocate_on(ctx, count * bytes));
  }
  return {};
}

Status place_expert(const ExecContext& ctx, std::span<const WeightPart> parts, int64_t e,
                    StackedExperts& out) {
  auto* to = static_cast<char*>(out.values.data()) + e * value_bytes(out);
  if (out.format.dtype == DType::kBF16) {
    return place_rows(ctx, parts, to);
  }
  if (device_expert_format(parts) != out.format) {
    return make_error(ErrorCode::kUnsupported, "experts of a layer in several formats");
  }
  std::vector<float> scales;
  std::vector<uint8_t> mx_scales;
  for (const WeightPart& part : parts) {
    ATOM_RETURN_IF_ERROR(ctx.uploader->stored_rows(part, to));
    to += part.rows * row_bytes(part.format.dtype, part.cols);
    if (part.format.dtype == DType::kF8E4M3) {
      append_scales(part, out, scales);
    } else {
      ATOM_RETURN_IF_ERROR(append_mx_scales(part, mx_scales));
    }
  }
  return out.format.dtype == DType::kF8E4M3 ? place_scales(ctx, scales.data(), e, out)
                                            : place_scales(ctx, mx_scales.data(), e, out);
}

Status place_dummy_experts(const ExecContext& ctx, float limit, StackedExperts& out) {
  std::vector<uint8_t> bytes(static_cast<size_t>(value_bytes(out)));
  const bool e4m3 = out.format.dtype == DType::kF8E4M3;
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<uint8_t>(splitmix64(i) >> 56);
    if (e4m3) {
      bytes[i] &= 0xbf;  // below 2
    }
  }
  ATOM_RETURN_IF_ERROR(ctx.uploader->bytes(bytes.data(), std::ssize(bytes), out.values.data()));
  std::vector<float> scales(static_cast<size_t>(e4m3 ? scale_bytes(out) / 4 : 0), limit / 2);
  const int exponent = 127 + std::clamp(std::ilogb(limit) - 2, -120, 1);  // values up to 6
  std::vector<uint8_t> mx_scales(static_cast<size_t>(e4m3 ? 0 : scale_bytes(out)),
                                 static_cast<uint8_t>(exponent));
  const void* from = e4m3 ? static_cast<const void*>(scales.data()) : mx_scales.data();
  for (int64_t e = 0; e < out.num_experts; ++e) {
    ATOM_RETURN_IF_ERROR(place_scales(ctx, from, e, out));
  }
  ATOM_RETURN_IF_ERROR(ctx.uploader->finish());
  for (int64_t e = 1; e < out.num_experts; ++e) {
    const DeviceStatus failed =
        ctx.runtime->copy_async(static_cast<char*>(out.values.data()) + e * value_bytes(out),
                                out.values.data(), value_bytes(out), ctx.stream);
    if (failed != nullptr) {
      return make_error(ErrorCode::kInternal, "made-up experts: {}", failed);
    }
  }
  return {};
}

}  // namespace atom
