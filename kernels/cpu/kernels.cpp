// The kernel tables and the choice of one for this processor.
#include "kernels/cpu/kernels.h"

#include "kernels/cpu/reference/reference_kernels.h"

namespace atom::cpu {

const Kernels& reference_kernels() {
  static constexpr Kernels kTable{
      .name = "reference",
      .packed_bytes = reference::packed_bytes,
      .choose_linear = reference::choose_linear,
      .pack = reference::pack,
      .linear = reference::linear,
      .rms_norm = reference::rms_norm,
      .silu_mul = reference::silu_mul,
      .qk_norm_rope_kv_write = reference::qk_norm_rope_kv_write,
      .attention = reference::attention,
  };
  return kTable;
}

const Kernels& best_kernels() { return reference_kernels(); }

}  // namespace atom::cpu
