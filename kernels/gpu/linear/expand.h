// Rows of a weight that is_packed() says, as bf16. C++20.
#pragma once

#include "kernels/gpu/linear.h"

namespace atom::gpu {

// out bf16 [num_rows, in_features] = rows [first_row, first_row + num_rows) of the weight.
DeviceStatus expand_rows(const LinearArgs& args, int64_t first_row, int64_t num_rows, uint16_t* out,
                         DeviceStream stream);

}  // namespace atom::gpu
