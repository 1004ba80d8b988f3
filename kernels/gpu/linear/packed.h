// Products of weights that is_packed() says: which kernel a size goes to, above what the streaming
// kernel takes. Host code, C++20.
#pragma once

#include "kernels/gpu/linear.h"
#include "kernels/gpu/linear/library.h"

namespace atom::gpu {

// Device memory of a LinearContext, and the library where it may be used.
struct PackedScratch {
  MatrixLibrary* library = nullptr;
  void* partials = nullptr;  // sums of tiles
  int64_t partials_bytes = 0;
  uint16_t* expanded = nullptr;  // bf16 rows of a weight
  int64_t expanded_values = 0;
  uint8_t* quantized_x = nullptr;  // e4m3 [max_tokens, max_in_features]
  float* x_scales = nullptr;       // [scale_groups(max_in_features), max_tokens]
  int64_t max_tokens = 0;
  int64_t max_in_features = 0;
};

// Any number of tokens, nothing fused but the bias. `invariant`: one kernel, one order of sums.
DeviceStatus linear_packed(const PackedScratch& scratch, const LinearArgs& args, bool invariant,
                           DeviceStream stream);

// The ways, for benchmarks. Text where a way does not take the product.
DeviceStatus linear_expanded(const PackedScratch& scratch, const LinearArgs& args,
                             DeviceStream stream);
DeviceStatus linear_blocks(const PackedScratch& scratch, const LinearArgs& args,
                           DeviceStream stream);

}  // namespace atom::gpu
