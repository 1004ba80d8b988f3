// The sibling of mla/attention.cu for every device: slow, and written to be read.
#pragma once

#include "kernels/gpu/mla.h"

namespace atom::gpu {

DeviceStatus portable_mla_attention(const MlaAttentionArgs& args, DeviceStream stream);

}  // namespace atom::gpu
