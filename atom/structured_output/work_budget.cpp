#include "atom/structured_output/work_budget.h"

#include <malloc.h>
#include <pthread.h>

#include <cstdlib>
#include <ctime>

#include "atom/core/check.h"

namespace atom {
namespace {

// The clock is read once per so much allocation traffic, an allocation counting at least
// kMinTraffic: every 256 small ones, about 10 microseconds of the work bounded here.
constexpr int64_t kClockTraffic = 65536;
constexpr int64_t kMinTraffic = 256;
constexpr size_t kLargeStack = 64 << 20;  // touched pages only

constinit thread_local WorkBudget* current_budget = nullptr;

double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void* allocate(size_t size) {
  while (true) {
    if (void* const memory = std::malloc(size == 0 ? 1 : size)) {
      if (current_budget != nullptr) {
        try {
          current_budget->on_allocate(static_cast<int64_t>(malloc_usable_size(memory)));
        } catch (...) {
          std::free(memory);
          throw;
        }
      }
      return memory;
    }
    const std::new_handler handler = std::get_new_handler();
    if (handler == nullptr) {
      throw std::bad_alloc();
    }
    handler();
  }
}

void release(void* memory) noexcept {
  if (current_budget != nullptr && memory != nullptr) {
    current_budget->on_free(static_cast<int64_t>(malloc_usable_size(memory)));
  }
  std::free(memory);
}

}  // namespace

WorkBudget::WorkBudget(Limits limits)
    : limits_(limits), start_(thread_seconds()), until_clock_(kClockTraffic) {
  ATOM_CHECK(current_budget == nullptr) << "work budgets do not nest";
  current_budget = this;
}

WorkBudget::~WorkBudget() { current_budget = nullptr; }

double WorkBudget::seconds() const { return thread_seconds() - start_; }

void WorkBudget::on_allocate(int64_t bytes) {
  if (bytes_ + bytes > limits_.bytes) {
    exceeded_ = Ending::kMemory;
    throw BudgetExceeded();
  }
  until_clock_ -= bytes > kMinTraffic ? bytes : kMinTraffic;
  if (until_clock_ <= 0) {
    until_clock_ = kClockTraffic;
    if (seconds() > limits_.cpu_seconds) {
      until_clock_ = 0;  // every allocation fails from here on
      exceeded_ = Ending::kTime;
      throw BudgetExceeded();
    }
  }
  bytes_ += bytes;
}

bool run_on_large_stack(const std::function<void()>& work) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kLargeStack);
  pthread_t thread{};
  const int status = pthread_create(
      &thread, &attributes,
      [](void* argument) -> void* {
        (*static_cast<const std::function<void()>*>(argument))();
        return nullptr;
      },
      const_cast<std::function<void()>*>(&work));
  pthread_attr_destroy(&attributes);
  return status == 0 && pthread_join(thread, nullptr) == 0;
}

}  // namespace atom

// The replaceable allocation functions of the program. Without a budget in force they are malloc
// and free, as in the C++ library; the forms for arrays and for nothrow end here too. Weak: a test
// program may have its own, without budgets; but clang's AddressSanitizer puts weak ones of its own
// before these.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ATOM_REPLACEABLE
#endif
#endif
#ifndef ATOM_REPLACEABLE
#define ATOM_REPLACEABLE [[gnu::weak]]
#endif
ATOM_REPLACEABLE void* operator new(size_t size) { return atom::allocate(size); }
ATOM_REPLACEABLE void operator delete(void* memory) noexcept { atom::release(memory); }
ATOM_REPLACEABLE void operator delete(void* memory, size_t) noexcept { atom::release(memory); }

// A sanitizer's own nothrow and array forms do not end in those above: what they allocate would not
// be counted, and would come back to a delete above, a mismatch that AddressSanitizer reports.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define ATOM_ALL_FORMS_OF_NEW
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ATOM_ALL_FORMS_OF_NEW
#endif
#ifdef ATOM_ALL_FORMS_OF_NEW
ATOM_REPLACEABLE void* operator new(size_t size, const std::nothrow_t&) noexcept {
  try {
    return atom::allocate(size);
  } catch (...) {
    return nullptr;
  }
}
ATOM_REPLACEABLE void operator delete(void* memory, const std::nothrow_t&) noexcept {
  atom::release(memory);
}
ATOM_REPLACEABLE void* operator new[](size_t size) { return atom::allocate(size); }
ATOM_REPLACEABLE void operator delete[](void* memory) noexcept { atom::release(memory); }
ATOM_REPLACEABLE void operator delete[](void* memory, size_t) noexcept { atom::release(memory); }
ATOM_REPLACEABLE void* operator new[](size_t size, const std::nothrow_t& tag) noexcept {
  return operator new(size, tag);
}
#endif
