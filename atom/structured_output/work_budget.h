// WorkBudget: bounds the CPU time and the memory of a piece of work that cannot be asked to stop.
// While a WorkBudget is in force on a thread, that thread's allocations are counted, and the first
// one over the limit throws BudgetExceeded (a std::bad_alloc, which code that allocates survives).
// Work that never allocates is not bounded. Other threads are not touched. Used around the grammar
// library, which has neither a time limit nor a cancel call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <new>

namespace atom {

struct BudgetExceeded : std::bad_alloc {
  const char* what() const noexcept override { return "out of its time or memory budget"; }
};

// In force from construction to destruction, on the thread that made it; they do not nest.
class WorkBudget {
 public:
  struct Limits {
    double cpu_seconds = 1;
    int64_t bytes = 64 << 20;  // allocated and not yet freed
  };
  explicit WorkBudget(Limits limits);
  ~WorkBudget();
  WorkBudget(const WorkBudget&) = delete;
  WorkBudget& operator=(const WorkBudget&) = delete;

  int64_t bytes() const { return bytes_; }  // allocated in this scope and still there
  double seconds() const;                   // CPU time of this thread in this scope
  enum class Ending { kNone, kTime, kMemory };
  Ending exceeded() const { return exceeded_; }

  // Called by operator new and delete.
  void on_allocate(int64_t bytes);
  void on_free(int64_t bytes) noexcept { bytes_ -= bytes; }

 private:
  Limits limits_;
  double start_;
  int64_t bytes_ = 0;
  int64_t until_clock_;  // bytes of allocation traffic before the clock is read again
  Ending exceeded_ = Ending::kNone;
};

// Runs `work` on a thread of its own with a large stack, for recursion that follows its input, and
// waits for it. False when there is no thread to be had. `work` must not throw.
bool run_on_large_stack(const std::function<void()>& work);

}  // namespace atom
