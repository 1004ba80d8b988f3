#include "kernels/gpu/sm90/ring_linear.h"

namespace atom::gpu {

DeviceStatus launch_ring_e4m3(const LinearArgs& args, const SmallLinearPlan& plan,
                              DeviceStream stream) {
  return launch_ring<E4m3Format>(args, plan, stream);
}

}  // namespace atom::gpu
