// What the two halves of the fake device share: its runtime (fake_device.cpp) and its ops
// (fake_ops.cpp). Not for tests.
#pragma once

#include <functional>

#include "kernels/common/device_runtime.h"

namespace atom::testing_support {

using Task = std::function<void()>;

const DeviceRuntime& fake_runtime();
// Runs `task` when somebody waits for the stream, or puts it into the graph that is being captured.
// An op counts, and may meet a planted fault; a kernel of a step does not.
void enqueue_op(DeviceStream stream, Task task);
void enqueue_kernel(DeviceStream stream, Task task);

}  // namespace atom::testing_support
