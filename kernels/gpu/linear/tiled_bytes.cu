// Tiled products of formats of eight bits.
#include "kernels/gpu/linear/tiled.h"

namespace atom::gpu {

DeviceStatus launch_tiled_bytes(const LinearArgs& args, const TiledPlan& plan,
                                DeviceStream stream) {
  return args.weight_dtype == DType::kI8 ? launch_tiled<I8Format>(args, plan, stream)
                                         : launch_tiled<E4m3BlockFormat>(args, plan, stream);
}

}  // namespace atom::gpu
