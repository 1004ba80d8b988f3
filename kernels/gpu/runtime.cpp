#include "kernels/gpu/runtime.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstring>

namespace atom::gpu {
namespace {

// Compute capabilities of the machine code in this file, as major * 10 + minor; given by CMake.
constexpr int kBuiltFor[] = {ATOM_GPU_CAPABILITIES};

thread_local char error_text[256];

// The calls that can fail name themselves, so that a log line says which one it was.
DeviceStatus report(const char* call, cudaError_t error) {
  if (error == cudaSuccess) {
    return nullptr;
  }
  std::snprintf(error_text, sizeof(error_text), "%s: %s (%s)", call, cudaGetErrorString(error),
                cudaGetErrorName(error));
  return error_text;
}

#define ATOM_GPU_CALL(call) report(#call, call)

cudaStream_t stream_of(DeviceStream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t event_of(DeviceEvent event) { return static_cast<cudaEvent_t>(event); }
cudaGraphExec_t graph_of(DeviceGraph graph) { return static_cast<cudaGraphExec_t>(graph); }

thread_local char launch_text[256];
thread_local bool launch_failed = false;

// What the table points to.
struct Runtime {
  static DeviceStatus probe() {
    void* driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (driver == nullptr) {
      return "no NVIDIA driver (libcuda.so.1 cannot be opened)";
    }
    int have = 0;
    int need = 0;
    if (cudaDriverGetVersion(&have) != cudaSuccess || cudaRuntimeGetVersion(&need) != cudaSuccess) {
      return "the NVIDIA driver does not answer";
    }
    // Minor versions of one major version are compatible.
    if (have / 1000 < need / 1000) {
      std::snprintf(error_text, sizeof(error_text),
                    "the NVIDIA driver is too old: it supports CUDA %d.%d, this build needs %d.0",
                    have / 1000, have % 1000 / 10, need / 1000);
      return error_text;
    }
    return nullptr;
  }

  static DeviceStatus device_count(int* count) { return ATOM_GPU_CALL(cudaGetDeviceCount(count)); }

  static DeviceStatus attribute(cudaDeviceAttr name, int device, int* out) {
    return ATOM_GPU_CALL(cudaDeviceGetAttribute(out, name, device));
  }

  static DeviceStatus properties(int device, DeviceProperties* out) {
    *out = {};
    int l2 = 0;
    const struct {
      cudaDeviceAttr name;
      int* value;
    } wanted[] = {{cudaDevAttrComputeCapabilityMajor, &out->compute_major},
                  {cudaDevAttrComputeCapabilityMinor, &out->compute_minor},
                  {cudaDevAttrMultiProcessorCount, &out->num_multiprocessors},
                  {cudaDevAttrL2CacheSize, &l2}};
    for (const auto& [name, value] : wanted) {
      if (const DeviceStatus failed = attribute(name, device, value)) {
        return failed;
      }
    }
    out->l2_bytes = l2;
    cudaDeviceProp prop;
    if (const DeviceStatus failed = ATOM_GPU_CALL(cudaGetDeviceProperties(&prop, device))) {
      return failed;
    }
    std::snprintf(out->name, sizeof(out->name), "%s", prop.name);
    out->total_memory = static_cast<int64_t>(prop.totalGlobalMem);
    return nullptr;
  }

  static DeviceStatus set_device(int device) {
    if (const DeviceStatus failed = ATOM_GPU_CALL(cudaSetDevice(device))) {
      return failed;
    }
    return ATOM_GPU_CALL(cudaFree(nullptr));  // makes the context, or says why it cannot be made
  }

  static DeviceStatus memory_info(int64_t* free_bytes, int64_t* total_bytes) {
    size_t available = 0;
    size_t total = 0;
    const DeviceStatus failed = ATOM_GPU_CALL(cudaMemGetInfo(&available, &total));
    *free_bytes = static_cast<int64_t>(available);
    *total_bytes = static_cast<int64_t>(total);
    return failed;
  }

  // Out of memory stays in the runtime's "last error" otherwise and would be reported again by the
  // next launch.
  static DeviceStatus forget(DeviceStatus failed) {
    if (failed != nullptr) {
      (void)cudaGetLastError();
    }
    return failed;
  }

  static DeviceStatus allocate(int64_t nbytes, void** out) {
    return forget(ATOM_GPU_CALL(cudaMalloc(out, static_cast<size_t>(nbytes))));
  }

  static DeviceStatus deallocate(void* data) { return ATOM_GPU_CALL(cudaFree(data)); }

  static DeviceStatus allocate_pinned(int64_t nbytes, void** out) {
    return forget(
        ATOM_GPU_CALL(cudaHostAlloc(out, static_cast<size_t>(nbytes), cudaHostAllocPortable)));
  }

  static DeviceStatus deallocate_pinned(void* data) { return ATOM_GPU_CALL(cudaFreeHost(data)); }

  static DeviceStatus create_stream(DeviceStream* out) {
    return ATOM_GPU_CALL(
        cudaStreamCreateWithFlags(reinterpret_cast<cudaStream_t*>(out), cudaStreamNonBlocking));
  }

  static DeviceStatus destroy_stream(DeviceStream stream) {
    return ATOM_GPU_CALL(cudaStreamDestroy(stream_of(stream)));
  }

  static DeviceStatus synchronize(DeviceStream stream) {
    return ATOM_GPU_CALL(cudaStreamSynchronize(stream_of(stream)));
  }

  static DeviceStatus copy_async(void* to, const void* from, int64_t nbytes, DeviceStream stream) {
    return ATOM_GPU_CALL(cudaMemcpyAsync(to, from, static_cast<size_t>(nbytes), cudaMemcpyDefault,
                                         stream_of(stream)));
  }

  static DeviceStatus fill_async(void* to, int byte, int64_t nbytes, DeviceStream stream) {
    return ATOM_GPU_CALL(cudaMemsetAsync(to, byte, static_cast<size_t>(nbytes), stream_of(stream)));
  }

  static DeviceStatus create_event(bool timing, DeviceEvent* out) {
    return ATOM_GPU_CALL(cudaEventCreateWithFlags(
        reinterpret_cast<cudaEvent_t*>(out), timing ? cudaEventDefault : cudaEventDisableTiming));
  }

  static DeviceStatus destroy_event(DeviceEvent event) {
    return ATOM_GPU_CALL(cudaEventDestroy(event_of(event)));
  }

  static DeviceStatus record_event(DeviceEvent event, DeviceStream stream) {
    return ATOM_GPU_CALL(cudaEventRecord(event_of(event), stream_of(stream)));
  }

  static DeviceStatus wait_event(DeviceStream stream, DeviceEvent event) {
    return ATOM_GPU_CALL(cudaStreamWaitEvent(stream_of(stream), event_of(event), 0));
  }

  static DeviceStatus query_event(DeviceEvent event, bool* done) {
    const cudaError_t error = cudaEventQuery(event_of(event));
    *done = error == cudaSuccess;
    return error == cudaErrorNotReady ? nullptr : report("cudaEventQuery", error);
  }

  static DeviceStatus synchronize_event(DeviceEvent event) {
    return ATOM_GPU_CALL(cudaEventSynchronize(event_of(event)));
  }

  static DeviceStatus elapsed_ms(DeviceEvent begin, DeviceEvent end, float* out) {
    return ATOM_GPU_CALL(cudaEventElapsedTime(out, event_of(begin), event_of(end)));
  }

  static DeviceStatus begin_capture(DeviceStream stream) {
    return ATOM_GPU_CALL(
        cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeThreadLocal));
  }

  static DeviceStatus end_capture(DeviceStream stream, DeviceGraph* out) {
    *out = nullptr;
    cudaGraph_t graph = nullptr;
    if (const DeviceStatus failed =
            ATOM_GPU_CALL(cudaStreamEndCapture(stream_of(stream), &graph))) {
      return forget(failed);
    }
    const DeviceStatus failed =
        ATOM_GPU_CALL(cudaGraphInstantiate(reinterpret_cast<cudaGraphExec_t*>(out), graph, 0));
    (void)cudaGraphDestroy(graph);
    return forget(failed);
  }

  static DeviceStatus launch_graph(DeviceGraph graph, DeviceStream stream) {
    return ATOM_GPU_CALL(cudaGraphLaunch(graph_of(graph), stream_of(stream)));
  }

  static DeviceStatus destroy_graph(DeviceGraph graph) {
    return ATOM_GPU_CALL(cudaGraphExecDestroy(graph_of(graph)));
  }

  static DeviceStatus last_launch_error() {
    const DeviceStatus failed = report("kernel launch", cudaGetLastError());
    if (launch_failed) {
      launch_failed = false;
      return launch_text;
    }
    return failed;
  }
};

}  // namespace

const DeviceRuntime& device_runtime() {
  static const DeviceRuntime runtime = runtime_of<Runtime>("cuda");
  return runtime;
}

void report_launch(const char* what, DeviceStatus status) {
  if (status != nullptr && !launch_failed) {
    std::snprintf(launch_text, sizeof(launch_text), "%s: %s", what, status);
    launch_failed = true;
  }
}

const char* architectures() { return ATOM_GPU_ARCHITECTURES; }

// Machine code runs on its own major version, from its minor version up.
bool supports_compute_capability(int major, int minor) {
  for (const int capability : kBuiltFor) {
    if (capability / 10 == major && capability % 10 <= minor) {
      return true;
    }
  }
  return false;
}

}  // namespace atom::gpu
