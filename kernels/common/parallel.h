// How a CPU kernel runs on several threads without knowing the engine's thread pool.
#pragma once

#include <cstdint>
#include <type_traits>

namespace atom {

// Runs body(context, i) for i in [0, count) on up to num_threads threads and returns when all are
// done. A default-constructed value runs everything on the calling thread.
struct ParallelFor {
  void (*run)(void* pool, int64_t count, void (*body)(void* context, int64_t index),
              void* context) = nullptr;
  void* pool = nullptr;
  int num_threads = 1;

  template <class Body>
  void operator()(int64_t count, Body&& body) const {
    if (run == nullptr || num_threads == 1 || count <= 1) {
      for (int64_t i = 0; i < count; ++i) {
        body(i);
      }
      return;
    }
    auto trampoline = [](void* context, int64_t index) {
      (*static_cast<std::remove_reference_t<Body>*>(context))(index);
    };
    run(pool, count, trampoline, const_cast<void*>(static_cast<const void*>(&body)));
  }
};

// One turn of a loop that waits for another thread: tells the processor so.
static inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace atom
