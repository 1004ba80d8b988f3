// The fake device's memory, streams, events and graphs; its ops are in fake_ops.cpp.
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "atom/core/check.h"
#include "tests/support/fake_device.h"
#include "tests/support/fake_device_internal.h"

namespace atom::testing_support {
namespace {

constexpr int64_t kDefaultMemory = int64_t{1} << 30;

struct Stream;

struct Event {
  bool done = true;  // an event that was never recorded does not hold anybody up
  Stream* stream = nullptr;
};

struct Graph {
  std::vector<Task> tasks;
};

struct Stream {
  std::deque<Task> tasks;
  Graph* capturing = nullptr;
};

struct State {
  std::recursive_mutex mutex;
  std::map<char*, int64_t> device, pinned;  // address -> bytes
  std::vector<Stream*> streams;
  int64_t total_memory = kDefaultMemory;
  int64_t calls_until_failure = 0;
  bool stays_broken = false;  // after the planted failure
  const char* probe_failure = nullptr;
  FakeDeviceStats stats;
};

State& state() {
  static State instance;
  return instance;
}

// Planted faults: counts down on every call that may fail.
DeviceStatus fault() {
  State& s = state();
  if (s.calls_until_failure <= 0 || --s.calls_until_failure > 0) {
    return nullptr;
  }
  s.calls_until_failure = s.stays_broken ? 1 : 0;
  return "planted failure";
}

#define FAKE_CALL()                          \
  const std::lock_guard lock(state().mutex); \
  if (const DeviceStatus planted = fault()) return planted

Stream* stream_of(DeviceStream stream) { return static_cast<Stream*>(stream); }
Event* event_of(DeviceEvent event) { return static_cast<Event*>(event); }

void run_all(Stream* stream) {
  while (!stream->tasks.empty()) {
    const Task task = std::move(stream->tasks.front());
    stream->tasks.pop_front();
    task();
  }
}

// Runs what leads to the event, and nothing else.
void run_until(Event* event) {
  while (!event->done) {
    ATOM_CHECK(!event->stream->tasks.empty()) << "an event that nobody will record";
    const Task task = std::move(event->stream->tasks.front());
    event->stream->tasks.pop_front();
    task();
  }
}

bool is_in(const std::map<char*, int64_t>& ranges, const void* address) {
  auto* data = static_cast<char*>(const_cast<void*>(address));
  auto after = ranges.upper_bound(data);
  return after != ranges.begin() && data < std::prev(after)->first + std::prev(after)->second;
}

DeviceStatus allocate_in(std::map<char*, int64_t>& ranges, int64_t nbytes, void** out) {
  const auto aligned = static_cast<size_t>((nbytes + 255) / 256 * 256);
  *out = std::aligned_alloc(256, aligned);
  std::memset(*out, 0xff, static_cast<size_t>(nbytes));  // NaN in every float format, -1 as index
  ranges[static_cast<char*>(*out)] = nbytes;
  return nullptr;
}

void release(std::map<char*, int64_t>& ranges, void* data) {
  for (Stream* stream : state().streams) {  // as cudaFree: waits for the device
    run_all(stream);
  }
  ATOM_CHECK(ranges.erase(static_cast<char*>(data)) == 1) << "not allocated here";
  std::free(data);
}

void enqueue(DeviceStream stream, Task task) {
  Stream* to = stream_of(stream);
  ATOM_CHECK(to != nullptr) << "the default stream is not used";
  if (to->capturing != nullptr) {
    to->capturing->tasks.push_back(std::move(task));
  } else {
    to->tasks.push_back(std::move(task));
  }
}

thread_local DeviceStatus launch_error = nullptr;

// What the table points to.
struct Runtime {
  static DeviceStatus probe() { return state().probe_failure; }

  static DeviceStatus device_count(int* count) {
    *count = 1;
    return nullptr;
  }

  static DeviceStatus properties(int, DeviceProperties* out) {
    *out = {.compute_major = 9, .num_multiprocessors = 4, .total_memory = state().total_memory};
    std::strcpy(out->name, "fake");
    return nullptr;
  }

  static DeviceStatus set_device(int) { return nullptr; }

  static DeviceStatus memory_info(int64_t* free_bytes, int64_t* total_bytes) {
    FAKE_CALL();
    *total_bytes = state().total_memory;
    *free_bytes = state().total_memory - state().stats.allocated_bytes;
    return nullptr;
  }

  static DeviceStatus allocate(int64_t nbytes, void** out) {
    FAKE_CALL();
    State& s = state();
    if (s.stats.allocated_bytes + nbytes > s.total_memory) {
      return "out of memory";
    }
    s.stats.allocated_bytes += nbytes;
    return allocate_in(s.device, nbytes, out);
  }

  static DeviceStatus allocate_pinned(int64_t nbytes, void** out) {
    FAKE_CALL();
    return allocate_in(state().pinned, nbytes, out);
  }

  static DeviceStatus deallocate(void* data) {
    const std::lock_guard lock(state().mutex);
    state().stats.allocated_bytes -= state().device[static_cast<char*>(data)];
    release(state().device, data);
    return nullptr;
  }

  static DeviceStatus deallocate_pinned(void* data) {
    const std::lock_guard lock(state().mutex);
    release(state().pinned, data);
    return nullptr;
  }

  static DeviceStatus create_stream(DeviceStream* out) {
    FAKE_CALL();
    auto* stream = new Stream;
    state().streams.push_back(stream);
    *out = stream;
    return nullptr;
  }

  static DeviceStatus destroy_stream(DeviceStream stream) {
    const std::lock_guard lock(state().mutex);
    run_all(stream_of(stream));
    std::erase(state().streams, stream_of(stream));
    delete stream_of(stream);
    return nullptr;
  }

  static DeviceStatus synchronize(DeviceStream stream) {
    FAKE_CALL();
    ATOM_CHECK(stream_of(stream)->capturing == nullptr) << "synchronize during a capture";
    run_all(stream_of(stream));
    return nullptr;
  }

  static DeviceStatus copy_async(void* to, const void* from, int64_t nbytes, DeviceStream stream) {
    FAKE_CALL();
    const State& s = state();
    ATOM_CHECK(is_in(s.device, to) || is_in(s.pinned, to)) << "copy to memory of nobody";
    if (is_in(s.device, from) || is_in(s.pinned, from)) {
      enqueue(stream, [=] { std::memmove(to, from, static_cast<size_t>(nbytes)); });
      return nullptr;
    }
    const auto* bytes = static_cast<const char*>(from);
    enqueue(stream, [to, copy = std::vector<char>(bytes, bytes + nbytes)] {
      std::memcpy(to, copy.data(), copy.size());
    });
    return nullptr;
  }

  static DeviceStatus fill_async(void* to, int byte, int64_t nbytes, DeviceStream stream) {
    FAKE_CALL();
    enqueue(stream, [=] { std::memset(to, byte, static_cast<size_t>(nbytes)); });
    return nullptr;
  }

  static DeviceStatus create_event(bool, DeviceEvent* out) {
    FAKE_CALL();
    *out = new Event;
    return nullptr;
  }

  static DeviceStatus destroy_event(DeviceEvent event) {
    const std::lock_guard lock(state().mutex);
    if (!event_of(event)->done) {
      run_until(event_of(event));
    }
    delete event_of(event);
    return nullptr;
  }

  static DeviceStatus record_event(DeviceEvent event, DeviceStream stream) {
    FAKE_CALL();
    ATOM_CHECK(stream_of(stream)->capturing == nullptr) << "events stay outside of captured steps";
    Event* e = event_of(event);
    if (!e->done) {  // recorded again before anybody waited: what the first one stood for goes
                     // first
      run_until(e);
    }
    *e = {.done = false, .stream = stream_of(stream)};
    enqueue(stream, [e] { e->done = true; });
    return nullptr;
  }

  static DeviceStatus wait_event(DeviceStream stream, DeviceEvent event) {
    FAKE_CALL();
    Event* e = event_of(event);
    enqueue(stream, [e] { run_until(e); });
    return nullptr;
  }

  static DeviceStatus synchronize_event(DeviceEvent event) {
    FAKE_CALL();
    run_until(event_of(event));
    return nullptr;
  }

  static DeviceStatus query_event(DeviceEvent event, bool* done) {
    FAKE_CALL();
    run_until(event_of(event));  // the device is done just now
    *done = true;
    return nullptr;
  }

  static DeviceStatus elapsed_ms(DeviceEvent, DeviceEvent, float* out) {
    *out = 0.0F;
    return nullptr;
  }

  static DeviceStatus begin_capture(DeviceStream stream) {
    FAKE_CALL();
    stream_of(stream)->capturing = new Graph;
    ++state().stats.captures;
    return nullptr;
  }

  static DeviceStatus end_capture(DeviceStream stream, DeviceGraph* out) {
    const std::lock_guard lock(state().mutex);
    *out = std::exchange(stream_of(stream)->capturing, nullptr);
    if (const DeviceStatus planted = fault()) {
      delete static_cast<Graph*>(std::exchange(*out, nullptr));
      return planted;
    }
    return nullptr;
  }

  static DeviceStatus launch_graph(DeviceGraph graph, DeviceStream stream) {
    FAKE_CALL();
    ++state().stats.graph_launches;
    const auto* tasks = &static_cast<Graph*>(graph)->tasks;
    enqueue(stream, [tasks] {
      for (const Task& task : *tasks) {
        task();
      }
    });
    return nullptr;
  }

  static DeviceStatus destroy_graph(DeviceGraph graph) {
    const std::lock_guard lock(state().mutex);
    for (Stream* stream : state().streams) {
      run_all(stream);
    }
    delete static_cast<Graph*>(graph);
    return nullptr;
  }

  static DeviceStatus last_launch_error() { return std::exchange(launch_error, nullptr); }
};

}  // namespace

const DeviceRuntime& fake_runtime() {
  static const DeviceRuntime table = runtime_of<Runtime>("fake");
  return table;
}

void enqueue_op(DeviceStream stream, Task task) {
  const std::lock_guard lock(state().mutex);
  if (const DeviceStatus planted = fault()) {
    launch_error = planted;
    return;
  }
  ++state().stats.eager_ops;
  enqueue(stream, std::move(task));
}

void enqueue_kernel(DeviceStream stream, Task task) {
  const std::lock_guard lock(state().mutex);
  enqueue(stream, std::move(task));
}

void reset_fake_device() {
  State& s = state();
  s.total_memory = kDefaultMemory;
  s.calls_until_failure = 0;
  s.probe_failure = nullptr;
  s.stats = {.allocated_bytes = s.stats.allocated_bytes};
}

void set_fake_memory(int64_t total_bytes) { state().total_memory = total_bytes; }
void fail_fake_device_after(int64_t num_calls) {
  state().calls_until_failure = num_calls;
  state().stays_broken = false;
}
void break_fake_device_after(int64_t num_calls) {
  state().calls_until_failure = num_calls;
  state().stays_broken = true;
}
void set_fake_probe_failure(const char* text) { state().probe_failure = text; }
const FakeDeviceStats& fake_device_stats() { return state().stats; }

}  // namespace atom::testing_support
