// Decode attention of head dim 64.
#include "kernels/gpu/attention/decode_launch.h"

#if ATOM_GPU_CUDA
namespace atom::gpu {
template void launch_decode<64>(const PagedAttentionArgs& args, void* stream);
}  // namespace atom::gpu
#endif
