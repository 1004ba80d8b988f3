// CUPTI's activity records as DeviceActivity. Nothing of it runs before prepare(). CUPTI hands over
// buffers of records on a thread of its own; what is not wanted (a host call that starts nothing on
// the device) is dropped here.
#include "kernels/gpu/tracer.h"

#if __has_include(<cupti.h>)

#include <cupti.h>
#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/common/device_tracer.h"

namespace atom::gpu {
namespace {

constexpr size_t kBufferBytes = size_t{4} << 20;
// Buffers that CUPTI may fill before they are read; beyond it records are lost and counted.
constexpr int kMaxBuffers = 64;

// The functions used, under their own names.
struct Functions {
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks = nullptr;
  decltype(&cuptiActivityEnable) enable = nullptr;
  decltype(&cuptiActivityDisable) disable = nullptr;
  decltype(&cuptiActivityFlushAll) flush = nullptr;
  decltype(&cuptiActivityGetNextRecord) next_record = nullptr;
  decltype(&cuptiActivityGetNumDroppedRecords) dropped_records = nullptr;
  decltype(&cuptiGetTimestamp) timestamp = nullptr;
  decltype(&cuptiSetThreadIdType) set_thread_id_type = nullptr;
  decltype(&cuptiGetCallbackName) callback_name = nullptr;
  decltype(&cuptiGetResultString) result_string = nullptr;
  DeviceStatus missing = nullptr;
};

template <class Function>
bool find(void* library, const char* name, Function& out) {
  out = reinterpret_cast<Function>(dlsym(library, name));
  return out != nullptr;
}

Functions open_functions() {
  Functions f;
  void* library = nullptr;
  for (const char* name : {"libcupti.so.13", "/usr/local/cuda/lib64/libcupti.so.13",
                           "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so.13", "libcupti.so"}) {
    library = library != nullptr ? library : dlopen(name, RTLD_NOW | RTLD_LOCAL);
  }
  if (library == nullptr) {
    f.missing = "libcupti.so.13 was not found";
    return f;
  }
  const bool whole = find(library, "cuptiActivityRegisterCallbacks", f.register_callbacks) &&
                     find(library, "cuptiActivityEnable", f.enable) &&
                     find(library, "cuptiActivityDisable", f.disable) &&
                     find(library, "cuptiActivityFlushAll", f.flush) &&
                     find(library, "cuptiActivityGetNextRecord", f.next_record) &&
                     find(library, "cuptiActivityGetNumDroppedRecords", f.dropped_records) &&
                     find(library, "cuptiGetTimestamp", f.timestamp) &&
                     find(library, "cuptiSetThreadIdType", f.set_thread_id_type) &&
                     find(library, "cuptiGetCallbackName", f.callback_name) &&
                     find(library, "cuptiGetResultString", f.result_string);
  if (!whole) {
    f.missing = "libcupti.so.13 lacks a function";
  }
  return f;
}

const Functions& cupti() {
  static const Functions functions = open_functions();
  return functions;
}

DeviceStatus status(CUptiResult result) {
  if (result == CUPTI_SUCCESS) {
    return nullptr;
  }
  const char* text = nullptr;
  cupti().result_string(result, &text);
  return text != nullptr ? text : "CUPTI failed";
}

constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                         CUPTI_ACTIVITY_KIND_MEMCPY, CUPTI_ACTIVITY_KIND_MEMSET,
                                         CUPTI_ACTIVITY_KIND_RUNTIME, CUPTI_ACTIVITY_KIND_DRIVER};

struct Tracer {
  std::mutex mutex;
  DeviceTracer::Take take = nullptr;  // nullptr: no capture
  void* user = nullptr;
  int64_t clock_offset = 0;  // since the epoch - CUPTI's clock, ns
  int64_t dropped = 0;
  std::atomic<int> buffers{0};
  std::map<uint64_t, const char*> call_names;  // by domain and callback; nullptr: not wanted
};

Tracer& tracer() {
  static Tracer* instance = new Tracer;  // CUPTI's thread may outlive static objects
  return *instance;
}

// Calls that start work on a device or wait for it.
const char* call_name(Tracer& t, CUpti_CallbackDomain domain, uint32_t callback) {
  const uint64_t key = (static_cast<uint64_t>(domain) << 32) | callback;
  const auto known = t.call_names.find(key);
  if (known != t.call_names.end()) {
    return known->second;
  }
  const char* name = nullptr;
  const bool is_known = cupti().callback_name(domain, callback, &name) == CUPTI_SUCCESS && name;
  const auto has = [&](const char* part) { return std::strstr(name, part) != nullptr; };
  const bool is_wanted =
      is_known && (has("Launch") || has("Memcpy") || has("Memset") || has("Synchronize"));
  return t.call_names[key] = is_wanted ? strdup(name) : nullptr;
}

const char* direction_of(uint8_t kind) {
  switch (kind) {
    case CUPTI_ACTIVITY_MEMCPY_KIND_HTOD:
      return "HtoD";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOH:
      return "DtoH";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOD:
      return "DtoD";
    case CUPTI_ACTIVITY_MEMCPY_KIND_HTOH:
      return "HtoH";
    case CUPTI_ACTIVITY_MEMCPY_KIND_PTOP:
      return "PtoP";
    default:
      return "?";
  }
}

DeviceActivity kernel_activity(const CUpti_ActivityKernel9& kernel) {
  return {.kind = DeviceActivityKind::kKernel,
          .name = kernel.name,
          .begin_ns = static_cast<int64_t>(kernel.start),
          .end_ns = static_cast<int64_t>(kernel.end),
          .correlation = kernel.correlationId,
          .device = static_cast<int32_t>(kernel.deviceId),
          .stream = static_cast<int32_t>(kernel.streamId),
          .grid = {kernel.gridX, kernel.gridY, kernel.gridZ},
          .block = {kernel.blockX, kernel.blockY, kernel.blockZ},
          .registers = kernel.registersPerThread,
          .shared_memory = kernel.staticSharedMemory + kernel.dynamicSharedMemory};
}

DeviceActivity copy_activity(const CUpti_ActivityMemcpy5& copy) {
  return {.kind = DeviceActivityKind::kCopy,
          .begin_ns = static_cast<int64_t>(copy.start),
          .end_ns = static_cast<int64_t>(copy.end),
          .correlation = copy.correlationId,
          .device = static_cast<int32_t>(copy.deviceId),
          .stream = static_cast<int32_t>(copy.streamId),
          .bytes = static_cast<int64_t>(copy.bytes),
          .direction = direction_of(copy.copyKind)};
}

DeviceActivity fill_activity(const CUpti_ActivityMemset4& fill) {
  return {.kind = DeviceActivityKind::kFill,
          .begin_ns = static_cast<int64_t>(fill.start),
          .end_ns = static_cast<int64_t>(fill.end),
          .correlation = fill.correlationId,
          .device = static_cast<int32_t>(fill.deviceId),
          .stream = static_cast<int32_t>(fill.streamId),
          .bytes = static_cast<int64_t>(fill.bytes)};
}

bool convert(Tracer& t, const CUpti_Activity& record, DeviceActivity& out) {
  switch (record.kind) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL:
      out = kernel_activity(reinterpret_cast<const CUpti_ActivityKernel9&>(record));
      break;
    case CUPTI_ACTIVITY_KIND_MEMCPY:
      out = copy_activity(reinterpret_cast<const CUpti_ActivityMemcpy5&>(record));
      break;
    case CUPTI_ACTIVITY_KIND_MEMSET:
      out = fill_activity(reinterpret_cast<const CUpti_ActivityMemset4&>(record));
      break;
    case CUPTI_ACTIVITY_KIND_RUNTIME:
    case CUPTI_ACTIVITY_KIND_DRIVER: {
      const auto& call = reinterpret_cast<const CUpti_ActivityAPI&>(record);
      const bool is_driver = record.kind == CUPTI_ACTIVITY_KIND_DRIVER;
      const char* name = call_name(
          t, is_driver ? CUPTI_CB_DOMAIN_DRIVER_API : CUPTI_CB_DOMAIN_RUNTIME_API, call.cbid);
      if (name == nullptr) {
        return false;
      }
      out = {.kind = DeviceActivityKind::kLaunch,
             .name = name,
             .begin_ns = static_cast<int64_t>(call.start),
             .end_ns = static_cast<int64_t>(call.end),
             .correlation = call.correlationId,
             .thread = call.threadId};
      break;
    }
    default:
      return false;
  }
  out.begin_ns += t.clock_offset;
  out.end_ns += t.clock_offset;
  return true;
}

void CUPTIAPI request_buffer(uint8_t** buffer, size_t* size, size_t* max_records) {
  Tracer& t = tracer();
  *max_records = 0;
  *size = 0;
  *buffer = nullptr;
  if (t.buffers.fetch_add(1) >= kMaxBuffers) {
    t.buffers.fetch_sub(1);
    return;  // CUPTI drops records, and counts them
  }
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *size = *buffer != nullptr ? kBufferBytes : 0;
}

void CUPTIAPI take_buffer(CUcontext context, uint32_t stream, uint8_t* buffer, size_t /*size*/,
                          size_t valid) {
  Tracer& t = tracer();
  const std::lock_guard lock(t.mutex);
  std::vector<DeviceActivity> activities;
  CUpti_Activity* record = nullptr;
  while (t.take != nullptr && valid > 0 &&
         cupti().next_record(buffer, valid, &record) == CUPTI_SUCCESS) {
    DeviceActivity activity;
    if (convert(t, *record, activity)) {
      activities.push_back(activity);
    }
  }
  size_t dropped = 0;
  cupti().dropped_records(context, stream, &dropped);
  t.dropped += static_cast<int64_t>(dropped);
  if (t.take != nullptr && !activities.empty()) {
    t.take(t.user, activities.data(), activities.size());
  }
  std::free(buffer);
  t.buffers.fetch_sub(1);
}

int64_t epoch_ns() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

// The offset between the clocks, from the reading that was disturbed least.
int64_t clock_offset() {
  int64_t best_gap = INT64_MAX, best = 0;
  for (int i = 0; i < 16; ++i) {
    uint64_t device = 0;
    const int64_t before = epoch_ns();
    cupti().timestamp(&device);
    const int64_t after = epoch_ns();
    if (after - before < best_gap) {
      best_gap = after - before;
      best = before + best_gap / 2 - static_cast<int64_t>(device);
    }
  }
  return best;
}

void disable_all() {
  for (const CUpti_ActivityKind kind : kKinds) {
    cupti().disable(kind);
  }
}

DeviceStatus enable_all() {
  for (const CUpti_ActivityKind kind : kKinds) {
    if (const DeviceStatus failed = status(cupti().enable(kind))) {
      disable_all();
      return failed;
    }
  }
  return nullptr;
}

// Attaches CUPTI, so that graphs captured from here on can be traced.
DeviceStatus prepare() {
  const Functions& f = cupti();
  if (f.missing != nullptr) {
    return f.missing;
  }
  if (const DeviceStatus failed = status(f.register_callbacks(request_buffer, take_buffer))) {
    return failed;
  }
  f.set_thread_id_type(CUPTI_ACTIVITY_THREAD_ID_TYPE_SYSTEM);
  if (const DeviceStatus failed = enable_all()) {
    return failed;
  }
  disable_all();
  return nullptr;
}

DeviceStatus start(DeviceTracer::Take take, void* user) {
  Tracer& t = tracer();
  if (cupti().missing != nullptr) {
    return cupti().missing;
  }
  {
    const std::lock_guard lock(t.mutex);
    t.take = take;
    t.user = user;
    t.dropped = 0;
    t.clock_offset = clock_offset();
  }
  const DeviceStatus failed = enable_all();
  if (failed != nullptr) {
    const std::lock_guard lock(t.mutex);
    t.take = nullptr;
  }
  return failed;
}

DeviceStatus stop(int64_t* dropped) {
  Tracer& t = tracer();
  disable_all();
  const DeviceStatus failed = status(cupti().flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED));
  const std::lock_guard lock(t.mutex);
  t.take = nullptr;
  *dropped = t.dropped;
  return failed;
}

}  // namespace

const DeviceTracer* device_tracer() {
  static const DeviceTracer table{.prepare = prepare, .start = start, .stop = stop};
  return &table;
}

}  // namespace atom::gpu

#else  // a toolkit without CUPTI

namespace atom::gpu {

const DeviceTracer* device_tracer() { return nullptr; }

}  // namespace atom::gpu

#endif
