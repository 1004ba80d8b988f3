// Loads past the first cache level, for what other blocks of a running kernel, or the kernel before
// it, wrote. Device code, C++20.
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

}  // namespace atom::gpu
