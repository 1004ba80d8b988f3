// The device tracer of this backend: CUPTI, opened at run time. nullptr where there is none.
#pragma once

#include "kernels/common/device_tracer.h"

namespace atom::gpu {

const DeviceTracer* device_tracer();

}  // namespace atom::gpu
