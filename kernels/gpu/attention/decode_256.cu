#include "kernels/gpu/attention/decode_launch.h"

namespace atom::gpu {
template void launch_decode<256>(const PagedAttentionArgs& args, cudaStream_t stream);
}  // namespace atom::gpu
