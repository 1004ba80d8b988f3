// Packing and running linear layers on the CPU: checks, segments and work splitting; kernels do the
// rest.
#include <algorithm>
#include <bit>

#include "atom/model_ops/cpu/cpu_ops.h"

namespace atom {
namespace {

// Types whose values are numbers by themselves or carry their scales along, and types that need
// scales of their own.
enum class Storage { kUnknown, kPlain, kScaled };

Storage storage_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kQ8_0:
    case DType::kQ4_0:
    case DType::kQ4_1:
    case DType::kQ4_K:
    case DType::kQ6_K:
      return Storage::kPlain;
    case DType::kI8:
    case DType::kF8E4M3:
    case DType::kU4:
    case DType::kF4E2M1:
      return Storage::kScaled;
    default:
      return Storage::kUnknown;
  }
}

// Kernels find the scale of a block of 32 columns with a shift.
bool is_group(int64_t block_k, int64_t cols) {
  return block_k < 0 || block_k >= cols ||
         (block_k >= 32 && std::has_single_bit(uint64_t(block_k)));
}

Status check_scales(const WeightPart& part) {
  const DataFormat& f = part.format;
  const bool floats = f.scale_dtype == DType::kF32 || f.scale_dtype == DType::kF16 ||
                      f.scale_dtype == DType::kBF16 || f.scale_dtype == DType::kF8E8M0;
  if (part.scales == nullptr || !floats || f.block_k == 0 || f.block_n < -1) {
    return make_error(ErrorCode::kUnsupported,
                      "the CPU backend has no linear layer for weights of type {} with scales of "
                      "type {} per [{}, {}]",
                      dtype_name(f.dtype), dtype_name(f.scale_dtype), f.block_n, f.block_k);
  }
  if (!is_group(f.block_k, part.cols)) {
    return make_error(ErrorCode::kUnsupported,
                      "groups of {} columns are not supported (expected 32, 64, 128 ... or whole "
                      "rows)",
                      f.block_k);
  }
  if (f.has_zeros && (f.dtype != DType::kU4 || part.zeros == nullptr)) {
    return make_error(ErrorCode::kUnsupported, "zero points need weights of type u4 (found {})",
                      dtype_name(f.dtype));
  }
  return {};
}

Status check_part(const WeightPart& part, int64_t cols) {
  const DType dtype = part.format.dtype;
  const Storage storage = storage_of(dtype);
  if (storage == Storage::kUnknown || (storage == Storage::kScaled) != has_scales(part.format)) {
    return make_error(ErrorCode::kUnsupported,
                      "the CPU backend has no linear layer for weights of type {}{}",
                      dtype_name(dtype), has_scales(part.format) ? " with separate scales" : "");
  }
  if (part.rows <= 0 || part.cols <= 0 || part.cols != cols) {
    return make_error(ErrorCode::kInvalidArgument,
                      "cannot pack a weight of shape [{}, {}] with {} columns", part.rows,
                      part.cols, cols);
  }
  if (storage == Storage::kScaled) {
    ATOM_RETURN_IF_ERROR(check_scales(part));
  } else if (part.cols % dtype_info(dtype).block_size != 0) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{} columns are not a multiple of the {} block of {}", part.cols,
                      dtype_info(dtype).block_size, dtype_name(dtype));
  }
  if (part.rotary_heads > 0 && part.rows % (2 * part.rotary_heads) != 0) {
    return make_error(ErrorCode::kInvalidArgument, "{} rows cannot be {} rotary heads", part.rows,
                      part.rotary_heads);
  }
  return {};
}

// Neighbouring parts of one format become one segment.
std::vector<LinearSegment> make_segments(const cpu::Kernels& kernels,
                                         std::span<const WeightPart> parts, ComputeType compute) {
  std::vector<LinearSegment> segments;
  int64_t row = 0;
  for (const WeightPart& part : parts) {
    const DataFormat format = cpu::packed_format(part.format, part.cols);
    if (segments.empty() || segments.back().format != format) {
      segments.push_back(
          {.format = format,
           .row_begin = row,
           .kernel = kernels.choose_linear(format, part.cols, compute == ComputeType::kFloat32)});
    }
    segments.back().rows += part.rows;
    row += part.rows;
  }
  return segments;
}

int64_t num_panels(const LinearSegment& segment) {
  return (segment.rows + cpu::kPanelRows - 1) / cpu::kPanelRows;
}

void pack_segment(const ExecContext& ctx, const LinearSegment& segment,
                  std::span<const WeightPart> parts, const LinearWeight& weight) {
  std::vector<cpu::RowSource> sources;
  int64_t row = 0;
  for (const WeightPart& part : parts) {
    if (row >= segment.row_begin && row < segment.row_begin + segment.rows) {
      sources.push_back(row_source(part));
    }
    row += part.rows;
  }
  const cpu::PackArgs args{.sources = sources.data(),
                           .num_sources = static_cast<int64_t>(sources.size()),
                           .format = segment.format,
                           .rows = segment.rows,
                           .cols = weight.in_features,
                           .out = static_cast<uint8_t*>(weight.packed.data()) + segment.offset};
  parallel_ranges(ctx, num_panels(segment), 4,
                  [&](cpu::Range panels) { kernels_of(ctx).pack(segment.kernel, args, panels); });
}

// One thread's share: a range of panels and all tokens when there are few, tiles of both when there
// are many.
constexpr int64_t kTokensPerItem = 128;
constexpr int64_t kPanelsPerItem = 4;
constexpr int64_t kPanelsOfFewTokens = 8;  // that kernels read at once

// Where the rows of x lie in the layout that a kernel wants; filled once for all segments that
// share it.
const uint8_t* prepare(const ExecContext& ctx, int32_t kernel, const cpu::LinearArgs& args) {
  const cpu::Kernels& kernels = kernels_of(ctx);
  const int64_t bytes = kernels.input_bytes(kernel, args.num_tokens, args.cols);
  if (bytes == 0) {
    return nullptr;
  }
  auto* input = ctx.arena->allocate(DType::kU8, {bytes}).data_as<uint8_t>();
  constexpr int64_t kMinElements = 65536;
  parallel_ranges(ctx, args.num_tokens, std::max<int64_t>(1, kMinElements / args.cols),
                  [&](cpu::Range tokens) { kernels.prepare_input(kernel, args, input, tokens); });
  return input;
}

void run_segment(const ExecContext& ctx, int32_t kernel, const cpu::LinearArgs& args) {
  const cpu::Kernels& kernels = kernels_of(ctx);
  const int64_t panels = (args.rows + cpu::kPanelRows - 1) / cpu::kPanelRows;
  const int64_t token_tiles = (args.num_tokens + kTokensPerItem - 1) / kTokensPerItem;
  const int64_t wanted = int64_t{ctx.parallel.num_threads} * 8;
  const int64_t per_item = std::max<int64_t>(1, (panels * token_tiles + wanted - 1) / wanted);
  const int64_t unit = ctx.parallel.num_threads == 1 || per_item > kPanelsPerItem
                           ? kPanelsOfFewTokens
                           : kPanelsPerItem;
  const int64_t panel_step = std::min(panels, (per_item + unit - 1) / unit * unit);
  const int64_t panel_tiles = (panels + panel_step - 1) / panel_step;
  ctx.parallel(token_tiles * panel_tiles, [&](int64_t i) {
    const int64_t token = i / panel_tiles * kTokensPerItem;
    const int64_t panel = i % panel_tiles * panel_step;
    kernels.linear(kernel, args, {token, std::min(token + kTokensPerItem, args.num_tokens)},
                   {panel, std::min(panel + panel_step, panels)});
  });
}

}  // namespace

Status pack_linear_cpu(const ExecContext& ctx, std::span<const WeightPart> parts,
                       ComputeType compute, LinearWeight& out) {
  if (parts.empty()) {
    return make_error(ErrorCode::kInvalidArgument, "a linear layer needs at least one weight");
  }
  for (const WeightPart& part : parts) {
    ATOM_RETURN_IF_ERROR(check_part(part, parts.front().cols));
  }
  const cpu::Kernels& kernels = kernels_of(ctx);
  LinearWeight weight;
  weight.in_features = parts.front().cols;
  weight.segments = make_segments(kernels, parts, compute);
  int64_t bytes = 0;
  for (LinearSegment& segment : weight.segments) {
    constexpr int64_t kAlignment = 64;
    segment.offset = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    bytes = segment.offset +
            kernels.packed_bytes(segment.kernel, segment.format, segment.rows, weight.in_features);
    weight.out_features += segment.rows;
  }
  ATOM_ASSIGN_OR_RETURN(weight.packed, Buffer::allocate(bytes, PageSize::kHuge));
  for (const LinearSegment& segment : weight.segments) {
    pack_segment(ctx, segment, parts, weight);
  }
  out = std::move(weight);
  return {};
}

void linear_cpu(const ExecContext& ctx, const Tensor& x, const LinearWeight& weight,
                const Tensor& out) {
  ATOM_CHECK(x.dim(1) == weight.in_features && out.dim(1) == weight.out_features &&
             x.dim(0) == out.dim(0))
      << "linear of [" << x.dim(0) << ", " << x.dim(1) << "] by [" << weight.out_features << ", "
      << weight.in_features << "]";
  if (x.dim(0) == 0) {
    return;
  }
  const int64_t scratch = ctx.arena->mark();
  const auto* bias = static_cast<const float*>(weight.bias.data());
  int32_t prepared_for = -1;
  const uint8_t* input = nullptr;
  for (const LinearSegment& segment : weight.segments) {
    cpu::LinearArgs args{
        .x = x.data_as<float>(),
        .num_tokens = x.dim(0),
        .weight = static_cast<const uint8_t*>(weight.packed.data()) + segment.offset,
        .format = segment.format,
        .rows = segment.rows,
        .cols = weight.in_features,
        .bias = bias == nullptr ? nullptr : bias + segment.row_begin,
        .out = out.data_as<float>() + segment.row_begin,
        .out_stride = weight.out_features};
    if (prepared_for != segment.kernel) {
      input = prepare(ctx, segment.kernel, args);
      prepared_for = segment.kernel;
    }
    args.input = input;
    run_segment(ctx, segment.kernel, args);
  }
  ctx.arena->rewind(scratch);
}

}  // namespace atom
