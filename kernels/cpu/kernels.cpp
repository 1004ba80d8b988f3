// The kernel tables and the choice of one for this processor.
#include "kernels/cpu/kernels.h"

#include "kernels/cpu/reference/reference_kernels.h"

namespace atom::cpu {

#if defined(ATOM_X86_KERNELS)
namespace avx2 { extern const Kernels kKernels; }
namespace avx512 { extern const Kernels kKernels; }
namespace avx512_vnni { extern const Kernels kKernels; }
namespace avx512_bf16 { extern const Kernels kKernels; }
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
  if (__builtin_cpu_supports("avx512bf16")) {
    found.tables[found.count++] = &avx512_bf16::kKernels;
  }
#endif
  return found;
}

const Kernels& best_kernels() {
  const KernelTables found = available_kernels();
  return *found.tables[found.count - 1];
}

}  // namespace atom::cpu
