#include "atom/core/trace.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

namespace atom::trace {
namespace {

// Owner: its thread, and the registry while a capture lasts. The mutex is contended only by stop().
struct ThreadBuffer {
  std::mutex mutex;
  ThreadEvents recorded;
  size_t oldest = 0;     // index, once the ring is full
  uint64_t capture = 0;  // the one that `recorded` belongs to
};

struct Registry {
  std::mutex mutex;
  std::vector<std::shared_ptr<ThreadBuffer>> threads;  // of this capture
  Options options;
  uint64_t capture = 0;
};

Registry& registry() {
  static Registry* instance = new Registry;  // threads may outlive static objects
  return *instance;
}

std::string thread_name(int64_t id) {
  std::ifstream file("/proc/self/task/" + std::to_string(id) + "/comm");
  std::string name;
  std::getline(file, name);
  return name;
}

// Puts the buffer of this thread at the start of the running capture; its mutex is held.
void join_capture(const std::shared_ptr<ThreadBuffer>& buffer, Registry& all) {
  buffer->recorded = {};
  buffer->oldest = 0;
  buffer->capture = all.capture;
  buffer->recorded.thread_id = ::syscall(SYS_gettid);
  buffer->recorded.thread_name = thread_name(buffer->recorded.thread_id);
  all.threads.push_back(buffer);
}

void record(Event&& event) {
  thread_local const std::shared_ptr<ThreadBuffer> buffer = std::make_shared<ThreadBuffer>();
  Registry& all = registry();
  size_t limit = 0;
  {
    const std::lock_guard lock(all.mutex);
    if (!is_capturing()) {
      return;
    }
    limit = all.options.max_events_per_thread;
    if (buffer->capture != all.capture) {
      const std::lock_guard own(buffer->mutex);
      join_capture(buffer, all);
    }
  }
  const std::lock_guard lock(buffer->mutex);
  std::vector<Event>& events = buffer->recorded.events;
  if (events.size() < limit) {
    events.push_back(std::move(event));
    return;
  }
  events[buffer->oldest] = std::move(event);
  buffer->oldest = (buffer->oldest + 1) % limit;
  ++buffer->recorded.num_dropped;
}

// A capture must not stop what it looks at: an event for which there is no memory is lost.
void add(Event&& event) {
  try {
    record(std::move(event));
  } catch (const std::bad_alloc&) {
  }
}

}  // namespace

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

void start(const Options& options) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.options = options;
  all.threads.clear();
  ++all.capture;
  internal::detailed = options.detailed;
  internal::capturing = true;
}

std::vector<ThreadEvents> stop() {
  Registry& all = registry();
  std::vector<std::shared_ptr<ThreadBuffer>> threads;
  {
    const std::lock_guard lock(all.mutex);
    internal::capturing = false;
    internal::detailed = false;
    threads.swap(all.threads);
  }
  std::vector<ThreadEvents> result;
  for (const std::shared_ptr<ThreadBuffer>& thread : threads) {
    const std::lock_guard lock(thread->mutex);
    ThreadEvents recorded = std::exchange(thread->recorded, {});
    std::rotate(recorded.events.begin(),
                recorded.events.begin() + static_cast<ptrdiff_t>(thread->oldest),
                recorded.events.end());
    thread->oldest = 0;
    result.push_back(std::move(recorded));
  }
  return result;
}

void Zone::begin(const char* name, std::string text, Category category) {
  name_ = name;
  text_ = new std::string(std::move(text));
  category_ = category;
  begin_ns_ = now_ns();
}

void Zone::end() {
  const std::unique_ptr<std::string> text(text_);
  add({.name = name_,
       .text = std::move(*text),
       .begin_ns = begin_ns_,
       .end_ns = now_ns(),
       .category = category_,
       .memory = {}});
}

void memory_changed(const MemoryEvent& memory) {
  const int64_t now = now_ns();
  add({.name = "[memory]",
       .text = {},
       .begin_ns = now,
       .end_ns = now,
       .category = Category::kMemory,
       .memory = memory});
}

}  // namespace atom::trace
