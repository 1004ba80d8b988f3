// Attention without matrix instructions: the sibling of decode and prefill on backends that have
// none of theirs yet (HIP), and at level 0. Any head dim up to 256, any group; not fast.
#pragma once

#include "kernels/gpu/attention/instances.h"

namespace atom::gpu {

enum class PlainSequences { kDecode, kPrefill };  // those that this or that kernel would take

void launch_plain(const PagedAttentionArgs& args, PlainSequences which, void* stream);

}  // namespace atom::gpu
