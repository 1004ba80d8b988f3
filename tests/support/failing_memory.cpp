#include "tests/support/failing_memory.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace atom::testing_support {
namespace {

// Allocations until memory is there again; the last `num_failures` of them fail. 0: all is well.
std::atomic<int64_t> allocations_left{0};
std::atomic<int64_t> num_failures{0};
std::atomic<bool> ran_out{false};

void* allocate(std::size_t size) {
  if (!exempt_from_failing_memory && allocations_left.load(std::memory_order_relaxed) > 0) {
    const int64_t left = allocations_left.fetch_sub(1);
    if (left > 0 && left <= num_failures) {
      ran_out = true;
      throw std::bad_alloc();
    }
  }
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}

}  // namespace

constinit thread_local bool exempt_from_failing_memory = false;

void let_memory_run_out(int64_t count, int64_t failures) {
  ran_out = false;
  num_failures = failures;
  allocations_left = count + failures;
}

void give_memory_back() { allocations_left = 0; }

bool memory_ran_out() { return ran_out; }

}  // namespace atom::testing_support

void* operator new(std::size_t size) { return atom::testing_support::allocate(size); }
void* operator new[](std::size_t size) { return atom::testing_support::allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
