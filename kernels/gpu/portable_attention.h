// Paged attention for any head size up to 256, any page size and every mixed batch, in one plain
// kernel: level 0, and models that the tuned kernels (attention.h) do not take. A warp per query
// token and head reads all its keys, in order; slow for long contexts. C++20.
#pragma once

#include "kernels/common/device_runtime.h"
#include "kernels/gpu/attention.h"

namespace atom::gpu {

// Every row of `out` [metadata.num_tokens, ...] is written; tokens of no sequence get zeros. The
// workspace is not used.
DeviceStatus portable_attention(const PagedAttentionArgs& args, DeviceStream stream);

}  // namespace atom::gpu
