// Streams, events and graphs of a device, owned. Not here: memory (core/buffer).
#pragma once

#include <utility>

#include "atom/core/error.h"
#include "kernels/common/device_runtime.h"

namespace atom {

// An Error that says which part of the engine asked and what the device answered.
inline Status device_status(DeviceStatus failed, const char* doing) {
  if (failed == nullptr) {
    return {};
  }
  return make_error(ErrorCode::kInternal, "{}: {}", doing, failed);
}

// One handle and the runtime's function that gives it back.
template <DeviceStatus (*DeviceRuntime::*Destroy)(void*)>
class DeviceHandle {
 public:
  DeviceHandle() = default;
  DeviceHandle(const DeviceRuntime& runtime, void* handle) : runtime_(&runtime), handle_(handle) {}
  ~DeviceHandle() {
    if (handle_ != nullptr) {
      (void)(runtime_->*Destroy)(handle_);
    }
  }
  DeviceHandle(DeviceHandle&& other) noexcept
      : runtime_(other.runtime_), handle_(std::exchange(other.handle_, nullptr)) {}
  DeviceHandle& operator=(DeviceHandle&& other) noexcept {
    std::swap(runtime_, other.runtime_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  void* get() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  const DeviceRuntime* runtime_ = nullptr;
  void* handle_ = nullptr;
};

using OwnedStream = DeviceHandle<&DeviceRuntime::destroy_stream>;
using OwnedEvent = DeviceHandle<&DeviceRuntime::destroy_event>;
using OwnedGraph = DeviceHandle<&DeviceRuntime::destroy_graph>;

inline Result<OwnedStream> make_stream(const DeviceRuntime& runtime) {
  DeviceStream stream = nullptr;
  ATOM_RETURN_IF_ERROR(device_status(runtime.create_stream(&stream), "creating a stream"));
  return OwnedStream(runtime, stream);
}

inline Result<OwnedEvent> make_event(const DeviceRuntime& runtime) {
  DeviceEvent event = nullptr;
  ATOM_RETURN_IF_ERROR(device_status(runtime.create_event(false, &event), "creating an event"));
  return OwnedEvent(runtime, event);
}

}  // namespace atom
