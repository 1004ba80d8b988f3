// Decode attention of head dim 96.
#include "kernels/gpu/attention/decode_launch.h"

#if ATOM_GPU_CUDA
namespace atom::gpu {
template void launch_decode<96>(const PagedAttentionArgs& args, void* stream);
}  // namespace atom::gpu
#endif
