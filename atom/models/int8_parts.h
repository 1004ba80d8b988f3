// Weights of floats as int8 with one scale per row (largest magnitude = 127), for matrices whose
// product need not be exact: what drafts tokens. Not here: formats of checkpoints
// (weight_schemes.h).
#pragma once

#include <span>
#include <vector>

#include "atom/core/buffer.h"
#include "atom/core/error.h"
#include "atom/model_ops/linear_weight.h"
#include "kernels/common/parallel.h"

namespace atom {

// Parts and the memory that they point into.
struct Int8Parts {
  std::vector<WeightPart> parts;
  std::vector<Buffer> memory;
};

// Parts of other formats stay what they are. A row with a value that is not finite has a scale that
// is not a number.
Result<Int8Parts> to_int8(const ParallelFor& parallel, std::span<const WeightPart> parts);

}  // namespace atom
