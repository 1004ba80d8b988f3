// qk_norm_rope_kv_write for heads that the vectorised kernels (rope.cu) do not take: any even
// head_dim and rotary_dim up to 256, a value at a time.
#pragma once

#include "kernels/gpu/vector_ops.h"

namespace atom::gpu {

DeviceStatus qk_norm_rope_kv_write_any(const QkNormRopeKvWriteArgs& args, DeviceStream stream);

}  // namespace atom::gpu
