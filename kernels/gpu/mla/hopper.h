// Latent attention's kernel for Hopper (sm90/mla_attention.cu) as mla/attention.cu calls it: same
// grid, same partial sums.
#pragma once

#include "kernels/gpu/mla/tile.h"

namespace atom::gpu {

inline constexpr int kMlaHopperRows = 64;  // (token, head) of a block

// Whether it serves these shapes and this cache; not a matter of what is in the step.
bool mla_hopper_takes(const MlaAttentionArgs& args);
// Grid: (token_tiles, grid.head_tiles, grid.splits).
DeviceStatus launch_mla_hopper(const MlaAttentionArgs& args, const MlaGrid& grid,
                               int64_t token_tiles, DeviceStream stream);

}  // namespace atom::gpu
