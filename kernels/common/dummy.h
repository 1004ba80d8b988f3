// The values of dummy weights: value i of a stream is a function of (state, i), so that any number
// of threads makes the same ones, on the host and on a device. C++20.
#pragma once

#include <cstdint>

#if defined(__CUDACC__) || defined(__HIP__)
#define ATOM_HOST_DEVICE __host__ __device__
#else
#define ATOM_HOST_DEVICE
#endif

namespace atom {

// Added to the state for each value.
inline constexpr uint64_t kDummyStride = 0x9e3779b97f4a7c15;

// Uniform in [-1, 1) (splitmix64, https://prng.di.unimi.it/splitmix64.c): value `index` counts
// from 0 after `state`.
ATOM_HOST_DEVICE inline float dummy_value(uint64_t state, uint64_t index) {
  uint64_t z = state + (index + 1) * kDummyStride;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  z ^= z >> 31;
  return static_cast<float>(z >> 40) * 0x1p-23F - 1.0F;
}

}  // namespace atom
