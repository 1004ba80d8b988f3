// DeviceTracer: what a device did and when, for the profiler, as a plain table of functions.
// Implementations: kernels/gpu/tracer.cpp (CUPTI) and tests/support/fake_device. C++20.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/device_runtime.h"

namespace atom {

enum class DeviceActivityKind : uint8_t {
  kKernel,
  kCopy,
  kFill,
  kLaunch,  // a call of the host into the driver or runtime
};

struct DeviceActivity {
  DeviceActivityKind kind = DeviceActivityKind::kKernel;
  // Of a kernel: as the linker knows it, or nullptr (copies). Lives as long as the process.
  const char* name = nullptr;
  int64_t begin_ns = 0;  // since the epoch
  int64_t end_ns = 0;
  uint32_t correlation = 0;  // of a launch and of what it started
  uint32_t thread = 0;       // kLaunch: of the kernel (gettid)
  int32_t device = 0;
  int32_t stream = 0;
  int32_t grid[3] = {};
  int32_t block[3] = {};
  int32_t registers = 0;            // a thread
  int32_t shared_memory = 0;        // bytes a block
  int64_t bytes = 0;                // copied or filled
  const char* direction = nullptr;  // of a copy, as "HtoD"
};

struct DeviceTracer {
  // Before anything runs on the device that is to be traced later, graphs above all. nullptr, or
  // why devices cannot be traced here.
  DeviceStatus (*prepare)() = nullptr;
  // From now on activities go to take(user, activities, count), on threads of the tracer.
  using Take = void (*)(void* user, const DeviceActivity* activities, size_t count);
  DeviceStatus (*start)(Take take, void* user) = nullptr;
  // Returns when everything that has ended was taken. `dropped`: activities lost for want of room.
  DeviceStatus (*stop)(int64_t* dropped) = nullptr;
};

}  // namespace atom
