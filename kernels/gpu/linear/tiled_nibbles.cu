// Tiled products of formats of four bits.
#include "kernels/gpu/linear/tiled.h"

namespace atom::gpu {

DeviceStatus launch_tiled_nibbles(const LinearArgs& args, const TiledPlan& plan,
                                  DeviceStream stream) {
  if (args.weight_dtype == DType::kF4E2M1) {
    return launch_tiled<E2m1Format>(args, plan, stream);
  }
  return args.scale_values == 32 ? launch_tiled<U4Format<32>>(args, plan, stream)
                                 : launch_tiled<U4Format<128>>(args, plan, stream);
}

}  // namespace atom::gpu
