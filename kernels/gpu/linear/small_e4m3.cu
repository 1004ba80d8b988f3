#include "kernels/gpu/linear/small_launch.h"

namespace atom::gpu {

DeviceStatus launch_small_e4m3(const LinearArgs& args, const SmallLinearPlan& plan,
                               DeviceStream stream) {
  return launch_small<E4m3Format>(args, plan, stream);
}

}  // namespace atom::gpu
