#include "kernels/gpu/linear/small_launch.h"

namespace atom::gpu {

DeviceStatus launch_small_u4(const LinearArgs& args, const SmallLinearPlan& plan,
                             DeviceStream stream) {
  return launch_small_packed<U4Format<128>>(args, plan, stream);
}

}  // namespace atom::gpu
