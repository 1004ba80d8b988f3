// FakeDevice: a GpuBackend in host memory, for tests without a GPU. It is as asynchronous as a
// device may be: what is enqueued runs only when somebody waits for it, so a buffer that the host
// reuses too early, a missing event and a captured step that reads something that was not at a
// fixed address all give wrong results. Ops are those of the CPU, so answers equal the CPU's bit by
// bit. Fresh memory is filled with NaN. Faults can be planted.
#pragma once

#include <cstdint>

#include "atom/model_ops/gpu_backend.h"

namespace atom::testing_support {

struct FakeDeviceStats {
  int64_t eager_ops = 0;  // enqueued outside a graph, layers counted one by one
  int64_t graph_launches = 0;
  int64_t captures = 0;
  int64_t allocated_bytes = 0;
};

// The backend; one device for the whole process.
const GpuBackend& fake_backend();

// Back to the defaults: 1 GiB, nothing fails, counters at 0. Memory and streams stay.
void reset_fake_device();
void set_fake_memory(int64_t total_bytes);
// The n-th call from now to the runtime or an op reports an error (0: none).
void fail_fake_device_after(int64_t num_calls);
// From the n-th call on every call does, as on a device that is lost.
void break_fake_device_after(int64_t num_calls);
void set_fake_probe_failure(const char* text);  // nullptr: the driver is fine
const FakeDeviceStats& fake_device_stats();

}  // namespace atom::testing_support
