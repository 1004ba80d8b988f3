// Quantised linear weights on their way to a device that multiplies them as they are stored: which
// checkpoint formats become which of kernels/gpu/linear_layout.h, and their bytes in that order.
// Here is host work only; memory and copies are device_weights.h. To add a format: a rule in
// device_linear_format, its values and scales in device_linear.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "atom/model_ops/ops.h"

namespace atom {

// How a device keeps `parts`, stacked: e4m3 or i8 with a scale per row {1, -1}, e4m3 in blocks
// {8, 128}, u4 {1, 128 or 32}, MXFP4 {1, 32}; bf16 where no kernel reads what is stored.
DataFormat device_linear_format(std::span<const WeightPart> parts);

// Packs `parts` so; `format` as device_linear_format says, not bf16.
Status pack_stored_linear(const ExecContext& ctx, std::span<const WeightPart> parts,
                          const DataFormat& format, LinearWeight& out);

// One row of a part in the device's order, gpu::packed_row_bytes of it, and the scales of a weight.
void pack_device_row(const WeightPart& part, int64_t row, uint8_t* out);
std::vector<uint8_t> pack_device_scales(std::span<const WeightPart> parts, const DataFormat& format,
                                        const ParallelFor& parallel);

// Bytes that a device needs for a weight of the format, scales included.
int64_t device_linear_bytes(const DataFormat& format, int64_t rows, int64_t cols);

}  // namespace atom
