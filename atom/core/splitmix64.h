// splitmix64 (https://prng.di.unimi.it/splitmix64.c): a hash of 64 bits, and with the increment of
// its state a generator. For seeds and dummy weights; sampling has a counter-based generator of its
// own.
#pragma once

#include <cstdint>

namespace atom {

inline constexpr uint64_t kSplitmix64Increment = 0x9e3779b97f4a7c15ULL;

// The output of the generator whose state was `x` before this call; it then is at
// x + kSplitmix64Increment.
constexpr uint64_t splitmix64(uint64_t x) {
  x += kSplitmix64Increment;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace atom
