// Decode attention of head dim 128.
#include "kernels/gpu/attention/decode_launch.h"

#if ATOM_GPU_CUDA
namespace atom::gpu {
template void launch_decode<128>(const PagedAttentionArgs& args, void* stream);
}  // namespace atom::gpu
#endif
