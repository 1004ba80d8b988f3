// Experts' weights on their way to a device, where all of a layer are one tensor of each kind:
// bf16, or as they are stored where the kernels read that (kernels/gpu/moe.h: e4m3 with a scale per
// row or per block of 128, MXFP4). Not here: which tensors there are (models/expert_weights.cpp).
#pragma once

#include <cstdint>
#include <span>

#include "atom/model_ops/ops.h"

namespace atom {

// How a device keeps experts whose first one is stored as `parts`.
DataFormat device_expert_format(std::span<const WeightPart> parts);

// Room for `count` matrices [rows, cols] of the device of ctx.
Status allocate_experts(const ExecContext& ctx, const DataFormat& format, int64_t count,
                        int64_t rows, int64_t cols, StackedExperts& out);

// Expert e from its parts, one below the other.
Status place_expert(const ExecContext& ctx, std::span<const WeightPart> parts, int64_t e,
                    StackedExperts& out);

// --load_dummy in a stored format: the same made-up bytes for every expert, of values up to
// `limit`.
Status place_dummy_experts(const ExecContext& ctx, float limit, StackedExperts& out);

}  // namespace atom
