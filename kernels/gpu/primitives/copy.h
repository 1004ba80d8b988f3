// Copies of 8 or 16 bytes into shared memory that go on while the thread does something else; where
// the device has none (HIP, before sm_80), they are done at once. Device code, C++20.
#pragma once

#include "kernels/gpu/primitives/types.h"

namespace atom::gpu {

inline constexpr bool kCopiesInBackground = ATOM_GPU_CUDA != 0;

// Zeros where not `valid`; `from` is not read then.
__device__ __forceinline__ void copy16(void* to, const void* from, bool valid) {
#if ATOM_GPU_CUDA
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(valid ? 16 : 0)
               : "memory");
#else
  store16(to, valid ? load16(from) : Vec16{});
#endif
}

__device__ __forceinline__ void copy8(void* to, const void* from, bool valid) {
#if ATOM_GPU_CUDA
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(valid ? 8 : 0)
               : "memory");
#else
  *static_cast<uint64_t*>(to) = valid ? *static_cast<const uint64_t*>(from) : uint64_t{0};
#endif
}

// Closes a group of copies.
__device__ __forceinline__ void close_copies() {
#if ATOM_GPU_CUDA
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for this thread's groups but the last kPending.
template <int kPending>
__device__ __forceinline__ void copies_done() {
#if ATOM_GPU_CUDA
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace atom::gpu
