#include "kernels/gpu/attention/decode_launch.h"

namespace atom::gpu {
template void launch_decode<64>(const PagedAttentionArgs& args, cudaStream_t stream);
}  // namespace atom::gpu
