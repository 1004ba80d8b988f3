#include "kernels/gpu/sm90/ring_linear.h"

namespace atom::gpu {

DeviceStatus launch_ring_bf16(const LinearArgs& args, const SmallLinearPlan& plan,
                              DeviceStream stream) {
  return launch_ring<Bf16Format>(args, plan, stream);
}

}  // namespace atom::gpu
