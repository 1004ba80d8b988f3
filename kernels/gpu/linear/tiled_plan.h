// The tiled product (tiled.h) as its callers see it. C++20.
#pragma once

#include "kernels/gpu/linear.h"

namespace atom::gpu {

struct TiledPlan {
  int splits = 1;             // blocks that share a tile's groups
  float* partials = nullptr;  // [splits, num_tokens, out_features] where there are several
};
TiledPlan choose_tiled_plan(const LinearArgs& args, void* scratch, int64_t scratch_bytes);
// Any number of tokens; no fused op. With one split, sums of a row depend on its own x only.
DeviceStatus linear_tiled(const LinearArgs& args, const TiledPlan& plan, DeviceStream stream);

// What the blocks left in plan.partials, added up in order, with bias and scales of rows, to
// args.out. Also for the other product that shares tiles (sm90/block_linear.cu).
DeviceStatus add_tiled_partials(const LinearArgs& args, const TiledPlan& plan, DeviceStream stream);

}  // namespace atom::gpu
