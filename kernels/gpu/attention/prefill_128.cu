// Portable prefill attention of head dim 128.
#include "kernels/gpu/attention/prefill_launch.h"

#if ATOM_GPU_CUDA
namespace atom::gpu {
template void launch_prefill<128>(const PagedAttentionArgs& args, void* stream);
}  // namespace atom::gpu
#endif
