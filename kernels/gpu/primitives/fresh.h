// Loads past the first cache level, for what other blocks of a running kernel, or the kernel before
// it, wrote; and hints ahead of loads. Device code, C++20.
#pragma once

#include "kernels/gpu/vendor/gpu_runtime.h"

namespace atom::gpu {

template <class T>
__device__ __forceinline__ T load_fresh(const T* from) {
#if ATOM_GPU_HIP
  return __hip_atomic_load(from, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
#else
  return __ldcg(from);
#endif
}

// Asks for the line at `from`, and with it for the translation of its page, ahead of the load.
__device__ __forceinline__ void touch_ahead([[maybe_unused]] const void* from) {
#if ATOM_GPU_CUDA
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
#endif
}

}  // namespace atom::gpu
