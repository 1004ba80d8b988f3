#include "kernels/gpu/linear/small_launch.h"

namespace atom::gpu {

DeviceStatus launch_small_i8(const LinearArgs& args, const SmallLinearPlan& plan,
                             DeviceStream stream) {
  return launch_small_packed<I8Format>(args, plan, stream);
}

}  // namespace atom::gpu
