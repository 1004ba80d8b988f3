#include "kernels/gpu/linear/small_launch.h"

namespace atom::gpu {

DeviceStatus launch_small_bf16(const LinearArgs& args, const SmallLinearPlan& plan,
                               DeviceStream stream) {
  return launch_small<Bf16Format>(args, plan, stream);
}

}  // namespace atom::gpu
