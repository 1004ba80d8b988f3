#include "atom/model_ops/gpu/gpu_ops.h"

namespace atom::gpu {

void add_vector_ops(OpTable&, int) {}

}  // namespace atom::gpu
