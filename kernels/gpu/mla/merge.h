// Joining the partial sums of latent attention whose keys were cut into splits: [splits, num_tokens
// * num_heads, rank] sums, then [splits, .., 2] largest score (base 2) and total.
#pragma once

#include "kernels/gpu/mla.h"

namespace atom::gpu {

inline constexpr int kMaxMlaSplits = 32;  // one a lane

// To args.out.
DeviceStatus merge_mla(const MlaAttentionArgs& args, int splits, DeviceStream stream);
// Through the values' up-projection as well, without args.out: for few tokens.
bool merges_values(const MlaAttentionArgs& args, const LinearHeadsArgs& value_up, int splits);
DeviceStatus merge_mla_values(const MlaAttentionArgs& args, const LinearHeadsArgs& value_up,
                              int splits, DeviceStream stream);

}  // namespace atom::gpu
