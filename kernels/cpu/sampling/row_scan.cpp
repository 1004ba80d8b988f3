#include "kernels/cpu/sampling/row_scan.h"

#include <cstddef>
#include <limits>

// Wide vectors never leave this file.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace atom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

namespace baseline {
constexpr int kWidth = 4;
#include "kernels/cpu/sampling/row_scan.inc"
}  // namespace baseline

#if defined(__x86_64__)
// g++ and clang (the sanitizers' compiler) say it in their own ways.
#define ATOM_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define ATOM_BEGIN_TARGET(isa) \
  ATOM_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define ATOM_END_TARGET _Pragma("clang attribute pop")
#define ATOM_AVX512 "avx512f,avx512dq,avx512bw,avx512vl"
#else
#define ATOM_BEGIN_TARGET(isa) _Pragma("GCC push_options") ATOM_PRAGMA(GCC target(isa))
#define ATOM_END_TARGET _Pragma("GCC pop_options")
#define ATOM_AVX512 "avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512"
#endif

ATOM_BEGIN_TARGET("avx2")
namespace avx2 {
constexpr int kWidth = 8;
#include "kernels/cpu/sampling/row_scan.inc"
}  // namespace avx2
ATOM_END_TARGET

ATOM_BEGIN_TARGET(ATOM_AVX512)
namespace avx512 {
constexpr int kWidth = 16;
#include "kernels/cpu/sampling/row_scan.inc"
}  // namespace avx512
ATOM_END_TARGET
#endif

}  // namespace

int row_scan_kernel_sets(const RowScanKernels** sets, int capacity) {
  int count = 0;
  const auto add = [&](const RowScanKernels& kernels, bool usable) {
    if (usable && count < capacity) {
      sets[count++] = &kernels;
    }
  };
  static constexpr RowScanKernels kBaseline = baseline::make_kernels("baseline");
  add(kBaseline, true);
#if defined(__x86_64__)
  static constexpr RowScanKernels kAvx2 = avx2::make_kernels("avx2");
  static constexpr RowScanKernels kAvx512 = avx512::make_kernels("avx512");
  add(kAvx2, __builtin_cpu_supports("avx2") != 0);
  add(kAvx512, __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
                   __builtin_cpu_supports("avx512bw") != 0 &&
                   __builtin_cpu_supports("avx512vl") != 0);
#endif
  return count;
}

const RowScanKernels& row_scan_kernels() {
  static const RowScanKernels* const best = [] {
    const RowScanKernels* sets[4];
    return sets[row_scan_kernel_sets(sets, 4) - 1];
  }();
  return *best;
}

}  // namespace atom
