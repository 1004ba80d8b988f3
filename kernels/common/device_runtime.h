// DeviceRuntime: what the host needs of a device, as a plain table of functions: memory, streams,
// events, captured graphs. Nothing above kernels/gpu names a vendor. Implementations:
// kernels/gpu/runtime.cpp (CUDA, HIP) and tests/support/fake_device (host memory). C++20: device
// code includes this file. Every function returns nullptr, or a text that lives until the thread's
// next call. To extend: a field at the end here, both implementations, kGpuBackendAbi.
#pragma once

#include <cstddef>
#include <cstdint>

namespace atom {

using DeviceStream = void*;
using DeviceEvent = void*;
using DeviceGraph = void*;  // instantiated, ready to launch
using DeviceStatus = const char*;

struct DeviceProperties {
  char name[256] = {};
  int compute_major = 0;
  int compute_minor = 0;
  int num_multiprocessors = 0;
  int64_t total_memory = 0;  // bytes
  int64_t l2_bytes = 0;
};

struct DeviceRuntime {
  const char* name = nullptr;  // "cuda", "hip", "fake"

  // Why the runtime cannot be used at all (no driver, old driver), or nullptr. Called first.
  DeviceStatus (*probe)() = nullptr;
  DeviceStatus (*device_count)(int* count) = nullptr;
  DeviceStatus (*properties)(int device, DeviceProperties* out) = nullptr;
  // Binds the calling thread to a device; every thread that uses the table calls it once. Creates
  // the device's context on first use.
  DeviceStatus (*set_device)(int device) = nullptr;
  DeviceStatus (*memory_info)(int64_t* free_bytes, int64_t* total_bytes) = nullptr;

  // Device memory is not initialised; out of memory is a status. Pinned memory is host memory that
  // the device reads and writes at the same address.
  DeviceStatus (*allocate)(int64_t nbytes, void** out) = nullptr;
  DeviceStatus (*deallocate)(void* data) = nullptr;
  DeviceStatus (*allocate_pinned)(int64_t nbytes, void** out) = nullptr;
  DeviceStatus (*deallocate_pinned)(void* data) = nullptr;

  DeviceStatus (*create_stream)(DeviceStream* out) = nullptr;
  DeviceStatus (*destroy_stream)(DeviceStream stream) = nullptr;
  // Waits for everything on the stream; reports what failed there.
  DeviceStatus (*synchronize)(DeviceStream stream) = nullptr;
  // Direction follows from the addresses. Host memory is pinned, or is read before return.
  DeviceStatus (*copy_async)(void* to, const void* from, int64_t nbytes,
                             DeviceStream stream) = nullptr;
  DeviceStatus (*fill_async)(void* to, int byte, int64_t nbytes, DeviceStream stream) = nullptr;

  DeviceStatus (*create_event)(bool timing, DeviceEvent* out) = nullptr;
  DeviceStatus (*destroy_event)(DeviceEvent event) = nullptr;
  DeviceStatus (*record_event)(DeviceEvent event, DeviceStream stream) = nullptr;
  DeviceStatus (*wait_event)(DeviceStream stream, DeviceEvent event) = nullptr;
  DeviceStatus (*query_event)(DeviceEvent event, bool* done) = nullptr;
  DeviceStatus (*synchronize_event)(DeviceEvent event) = nullptr;
  DeviceStatus (*elapsed_ms)(DeviceEvent begin, DeviceEvent end, float* out) = nullptr;

  // What the calling thread enqueues on `stream` between the two becomes a graph instead of
  // running. end_capture always ends the capture, also when it reports why there is no graph.
  DeviceStatus (*begin_capture)(DeviceStream stream) = nullptr;
  DeviceStatus (*end_capture)(DeviceStream stream, DeviceGraph* out) = nullptr;
  DeviceStatus (*launch_graph)(DeviceGraph graph, DeviceStream stream) = nullptr;
  DeviceStatus (*destroy_graph)(DeviceGraph graph) = nullptr;

  // The first failed kernel launch of this thread since the last call, or nullptr.
  DeviceStatus (*last_launch_error)() = nullptr;
};

// The table of the static functions of `Functions`, which has one of each of these names.
template <class Functions>
DeviceRuntime runtime_of(const char* name) {
  return {.name = name,
          .probe = Functions::probe,
          .device_count = Functions::device_count,
          .properties = Functions::properties,
          .set_device = Functions::set_device,
          .memory_info = Functions::memory_info,
          .allocate = Functions::allocate,
          .deallocate = Functions::deallocate,
          .allocate_pinned = Functions::allocate_pinned,
          .deallocate_pinned = Functions::deallocate_pinned,
          .create_stream = Functions::create_stream,
          .destroy_stream = Functions::destroy_stream,
          .synchronize = Functions::synchronize,
          .copy_async = Functions::copy_async,
          .fill_async = Functions::fill_async,
          .create_event = Functions::create_event,
          .destroy_event = Functions::destroy_event,
          .record_event = Functions::record_event,
          .wait_event = Functions::wait_event,
          .query_event = Functions::query_event,
          .synchronize_event = Functions::synchronize_event,
          .elapsed_ms = Functions::elapsed_ms,
          .begin_capture = Functions::begin_capture,
          .end_capture = Functions::end_capture,
          .launch_graph = Functions::launch_graph,
          .destroy_graph = Functions::destroy_graph,
          .last_launch_error = Functions::last_launch_error};
}

}  // namespace atom
