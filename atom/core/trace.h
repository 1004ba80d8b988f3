// Trace zones: what the profiler (atom/profiler) records of the host. A zone is a scope with a
// name; while nothing is captured it costs one predictable branch. Not here: files and devices. To
// mark more code: a Zone at the start of its scope.
#pragma once

#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace atom::trace {

enum class Category : uint8_t {
  kCpuOp,           // an op of the op table
  kUserAnnotation,  // a step, a phase
  kMemory,          // an instant: bytes taken or given back
};

// Memory of the step arena, in bytes, at an instant.
struct MemoryEvent {
  int64_t bytes = 0;  // taken; negative: given back
  int64_t total_allocated = 0;
  int64_t total_reserved = 0;
  int device = -1;  // -1: the host
};

struct Event {
  const char* name = nullptr;  // static; nullptr: `text` is the name
  std::string text;            // else further members of "args", as JSON without braces
  int64_t begin_ns = 0;        // since the epoch
  int64_t end_ns = 0;
  Category category = Category::kCpuOp;
  MemoryEvent memory;
};

// What one thread recorded, oldest first.
struct ThreadEvents {
  int64_t thread_id = 0;  // of the kernel
  std::string thread_name;
  std::vector<Event> events;
  int64_t num_dropped = 0;  // the oldest, where there were more than the limit
};

struct Options {
  size_t max_events_per_thread = size_t{1} << 18;
  bool detailed = false;  // shapes and memory
};

namespace internal {
inline std::atomic<bool> capturing{false};
inline std::atomic<bool> detailed{false};
}  // namespace internal

inline bool is_capturing() { return internal::capturing.load(std::memory_order_relaxed); }
// Whether shapes and memory are wanted.
inline bool is_detailed() { return internal::detailed.load(std::memory_order_relaxed); }

// Nanoseconds since the epoch; the clock of all events.
int64_t now_ns();

// Forgets what was recorded and records from now on. One capture at a time (the profiler's duty).
void start(const Options& options);
// Threads that recorded something, in the order in which they first did.
std::vector<ThreadEvents> stop();

class Zone {
 public:
  explicit Zone(const char* name) {
    if (is_capturing()) [[unlikely]] {
      begin(name, {}, Category::kCpuOp);
    }
  }
  // An annotation; make_name() -> std::string is called only while capturing.
  template <std::invocable MakeName>
  explicit Zone(const MakeName& make_name) {
    if (is_capturing()) [[unlikely]] {
      begin(nullptr, make_name(), Category::kUserAnnotation);
    }
  }
  // With details: make_details() -> std::string, called only for a detailed capture.
  template <std::invocable MakeDetails>
  Zone(const char* name, const MakeDetails& make_details) {
    if (is_capturing()) [[unlikely]] {
      begin(name, is_detailed() ? make_details() : std::string(), Category::kCpuOp);
    }
  }
  ~Zone() {
    if (begin_ns_ != 0) [[unlikely]] {
      end();
    }
  }
  Zone(const Zone&) = delete;
  Zone& operator=(const Zone&) = delete;

 private:
  void begin(const char* name, std::string text, Category category);
  void end();

  int64_t begin_ns_ = 0;  // 0: not recorded
  const char* name_ = nullptr;
  std::string* text_ = nullptr;  // owned
  Category category_ = Category::kCpuOp;
};

void memory_changed(const MemoryEvent& memory);

}  // namespace atom::trace
