// Products of e4m3 weights in blocks on Hopper, for more tokens than the streaming kernel likes: x
// is quantised to e4m3 with a scale per token and 128 values of k, as checkpoints of that kind
// expect. Portable sibling: linear/tiled.h, which takes x as it is. C++20.
#pragma once

#include "kernels/gpu/linear.h"

namespace atom::gpu {

struct BlockLinearScratch {
  uint8_t* x = nullptr;       // e4m3 [num_tokens, in_features]
  float* x_scales = nullptr;  // [scale_groups(in_features), num_tokens]
  float* partials = nullptr;  // where several blocks share a tile
  int64_t partials_bytes = 0;
};

// Whether this device and driver have the product.
bool takes_block_linear(const LinearArgs& args);
// Two kernels, or three. No fused op but the bias.
DeviceStatus block_linear(const LinearArgs& args, const BlockLinearScratch& scratch,
                          DeviceStream stream);

}  // namespace atom::gpu
