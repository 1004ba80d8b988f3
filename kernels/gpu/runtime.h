// The device runtime of this build (CUDA or HIP) as the engine's plain table, and what devices its
// kernels run on. C++20.
#pragma once

#include "kernels/common/device_runtime.h"

namespace atom::gpu {

const DeviceRuntime& device_runtime();
// Remembers a launch that failed for DeviceRuntime::last_launch_error; the first one counts. `what`
// names the op; both live as long as the program.
void report_launch(const char* what, DeviceStatus status);
// As "9.0a, 8.0".
const char* architectures();
bool supports_compute_capability(int major, int minor);

}  // namespace atom::gpu
