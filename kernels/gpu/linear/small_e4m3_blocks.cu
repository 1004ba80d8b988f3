#include "kernels/gpu/linear/small_launch.h"

namespace atom::gpu {

DeviceStatus launch_small_e4m3_blocks(const LinearArgs& args, const SmallLinearPlan& plan,
                                      DeviceStream stream) {
  return launch_small_packed<E4m3BlockFormat>(args, plan, stream);
}

}  // namespace atom::gpu
