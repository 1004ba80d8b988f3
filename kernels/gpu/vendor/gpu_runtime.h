// The vendor's runtime under one set of names: CUDA's. On HIP every name that the kernels use is a
// rename. The only file, with those of primitives/, that asks which vendor it is compiled for;
// others test ATOM_GPU_* capabilities. Programmatic dependent launch and cache hints have no
// counterpart on HIP and vanish there. To extend: one line per name. C++20.
#pragma once

#if defined(__HIP__) || defined(__HIP_PLATFORM_AMD__)

#define HIP_DISABLE_WARP_SYNC_BUILTINS 1
#include <hip/hip_runtime.h>

#define ATOM_GPU_HIP 1
#define ATOM_GPU_CUDA 0

// The second number of __launch_bounds__ means waves per unit here, not blocks per multiprocessor.
#define ATOM_LAUNCH_BOUNDS(threads, blocks) __launch_bounds__(threads)

#define cudaError_t hipError_t
#define cudaSuccess hipSuccess
#define cudaErrorInvalidValue hipErrorInvalidValue
#define cudaGetErrorString hipGetErrorString
#define cudaGetLastError hipGetLastError
#define cudaPeekAtLastError hipPeekAtLastError
#define cudaStream_t hipStream_t
#define cudaEvent_t hipEvent_t
#define cudaGetDevice hipGetDevice
#define cudaDeviceGetAttribute hipDeviceGetAttribute
#define cudaDevAttrMultiProcessorCount hipDeviceAttributeMultiprocessorCount
#define cudaFuncSetAttribute hipFuncSetAttribute
#define cudaFuncAttributeMaxDynamicSharedMemorySize hipFuncAttributeMaxDynamicSharedMemorySize
#define cudaOccupancyMaxActiveBlocksPerMultiprocessor hipOccupancyMaxActiveBlocksPerMultiprocessor
#define cudaMemsetAsync hipMemsetAsync
#define cudaMemcpyAsync hipMemcpyAsync
#define cudaLaunchKernel hipLaunchKernel
#define cudaStreamSynchronize hipStreamSynchronize
#define cudaStreamIsCapturing hipStreamIsCapturing
#define cudaStreamCaptureStatus hipStreamCaptureStatus
#define cudaStreamCaptureStatusNone hipStreamCaptureStatusNone
#define cudaEventCreate hipEventCreate
#define cudaEventDestroy hipEventDestroy
#define cudaEventRecord hipEventRecord
#define cudaEventSynchronize hipEventSynchronize
#define cudaEventElapsedTime hipEventElapsedTime

#else

#include <cuda_runtime.h>

#define ATOM_GPU_HIP 0
#define ATOM_GPU_CUDA 1

#define ATOM_LAUNCH_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)

#endif
