// The kernel tables and the choice of one for this processor.
#include "kernels/cpu/kernels.h"

#include <utility>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels/cpu/reference/reference_kernels.h"

namespace atom::cpu {

#if defined(ATOM_X86_KERNELS)
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
namespace avx512_vnni {
extern const Kernels kKernels;
}
namespace avx512_bf16 {
extern const Kernels kKernels;
}
namespace amx {
extern const Kernels kKernels;
}

namespace {

// Linux lends the tile registers to a process that asks, once; its threads inherit them. The probes
// have seen that the system saves them. Any failure (an old kernel, a filter) only means the next
// best table.
bool may_use_tiles() {
#if defined(ATOM_AMX_KERNELS) && defined(__linux__)
  if (!__builtin_cpu_supports("amx-tile") || !__builtin_cpu_supports("amx-int8") ||
      !__builtin_cpu_supports("amx-bf16")) {
    return false;
  }
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM of asm/prctl.h
  constexpr long kTileData = 18;               // the state component's number in XCR0
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
#else
  return false;
#endif
}

}  // namespace
#endif

const Kernels& reference_kernels() {
  static constexpr Kernels kTable{
      .name = "reference",
      .packed_bytes = reference::packed_bytes,
      .choose_linear = reference::choose_linear,
      .pack = reference::pack,
      .input_bytes = reference::input_bytes,
      .prepare_input = reference::prepare_input,
      .linear = reference::linear,
      .rms_norm = reference::rms_norm,
      .silu_mul = reference::silu_mul,
      .qk_norm_rope_kv_write = reference::qk_norm_rope_kv_write,
      .attention = reference::attention,
      .mla_cache_write = reference::mla_cache_write,
      .mla_attention = reference::mla_attention,
  };
  return kTable;
}

// The compiler's probes read CPUID, and XGETBV for what the operating system saves.
KernelTables available_kernels() {
  KernelTables found;
  found.tables[found.count++] = &reference_kernels();
#if defined(ATOM_X86_KERNELS)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("f16c")) {
    return found;
  }
  found.tables[found.count++] = &avx2::kKernels;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq")) {
    return found;
  }
  found.tables[found.count++] = &avx512::kKernels;
  if (!__builtin_cpu_supports("avx512vnni")) {
    return found;
  }
  found.tables[found.count++] = &avx512_vnni::kKernels;
  if (!__builtin_cpu_supports("avx512bf16")) {
    return found;
  }
  found.tables[found.count++] = &avx512_bf16::kKernels;
  if (__builtin_cpu_is("intel")) {
    // There vdpbf16ps has half the rate of f32 FMA (Sapphire Rapids: 83 against 168 GFLOP/s a
    // core), so that bf16 weights do better in f32, the only difference between these two tables.
    std::swap(found.tables[found.count - 2], found.tables[found.count - 1]);
  }
#if defined(ATOM_AMX_KERNELS)
  if (may_use_tiles()) {
    found.tables[found.count++] = &amx::kKernels;
  }
#endif
#endif
  return found;
}

const Kernels& best_kernels() {
  const KernelTables found = available_kernels();
  return *found.tables[found.count - 1];
}

}  // namespace atom::cpu
