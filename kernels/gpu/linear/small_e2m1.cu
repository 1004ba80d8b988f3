#include "kernels/gpu/linear/small_launch.h"

namespace atom::gpu {

DeviceStatus launch_small_e2m1(const LinearArgs& args, const SmallLinearPlan& plan,
                               DeviceStream stream) {
  return launch_small_packed<E2m1Format>(args, plan, stream);
}

}  // namespace atom::gpu
