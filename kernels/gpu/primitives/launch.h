// Launching kernels, and chaining them: a kernel launched with `launch_chained` may start while the
// one before it in the stream still runs (programmatic dependent launch). It must call
// wait_previous in every thread before it reads what earlier kernels wrote, and before any write to
// memory; constant data such as weights may be read earlier. It calls allow_next as soon as the
// next kernel's blocks may take free room on the device. On HIP all three are an ordinary launch.
//
// A kernel that allows the next one only after its own wait (and a fence, for its own results)
// makes all that was written up to there readable before the wait of every kernel that follows in
// the stream: these start after it has allowed it. embedding and rope_cos_sin do so for a step's
// inputs. C++20.
#pragma once

#include "kernels/common/device_runtime.h"
#include "kernels/gpu/vendor/gpu_runtime.h"

namespace atom::gpu {

inline DeviceStatus status_of(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

struct LaunchShape {
  dim3 grid;
  dim3 block;
  unsigned shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

template <class... Params, class... Args>
DeviceStatus launch(void (*kernel)(Params...), const LaunchShape& shape, Args... args) {
  kernel<<<shape.grid, shape.block, shape.shared_bytes, shape.stream>>>(args...);
  return status_of(cudaPeekAtLastError());
}

template <class... Params, class... Args>
DeviceStatus launch_chained(void (*kernel)(Params...), const LaunchShape& shape, Args... args) {
#if ATOM_GPU_CUDA
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return status_of(cudaLaunchKernelEx(&config, kernel, args...));
#else
  return launch(kernel, shape, args...);
#endif
}

__device__ __forceinline__ void wait_previous() {
#if ATOM_GPU_CUDA && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void allow_next() {
#if ATOM_GPU_CUDA && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

#if ATOM_GPU_CUDA
// Of the calling thread's device, as below.
inline bool device_is_hopper() {
  static const bool is = [] {
    int device = 0;
    int major = 0;
    (void)cudaGetDevice(&device);
    (void)cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    return major == 9;
  }();
  return is;
}
#endif

// Of the calling thread's device; asked once (all devices of a process are alike).
inline int multiprocessor_count() {
  static const int count = [] {
    int device = 0;
    int value = 0;
    (void)cudaGetDevice(&device);
    (void)cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device);
    return value > 0 ? value : 1;
  }();
  return count;
}

}  // namespace atom::gpu
