#include "atom/core/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "atom/core/check.h"

namespace atom {
namespace {

// Spinning bridges the gaps between the ops of one step (1-20 us); longer gaps sleep on a futex.
constexpr int kSpinIterations = 2000;

}  // namespace

// A loop is open while `ticket` holds its number and an index below `count`. Whoever raises the
// index runs it; the caller waits for the indices, never for a worker that slept or was preempted
// before it took one. A late worker cannot touch the next loop: its claim names the loop it has
// read the fields of.
struct ThreadPool::Impl {
  static constexpr uint64_t kClosed = 0xffffffff;  // an index no loop reaches

  std::atomic<uint64_t> ticket{kClosed};  // loop number << 32 | next index
  std::atomic<uint32_t> loops{0};         // what idle workers sleep on
  std::atomic<int64_t> done{0};           // indices finished in this loop
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> count{0};
  std::atomic<void (*)(void*, int64_t)> body{nullptr};
  std::atomic<void*> context{nullptr};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;  // the first of this loop, once `failed`
  std::vector<std::thread> workers;

  void run_index(void (*loop_body)(void*, int64_t), void* argument, int64_t index) {
    try {
      loop_body(argument, index);
    } catch (...) {
      if (!failed.exchange(true)) {
        failure = std::current_exception();
      }
    }
  }

  void rethrow_failure() {
    if (failed.exchange(false)) {
      std::rethrow_exception(std::exchange(failure, nullptr));
    }
  }

  // Runs indices of the open loop until there is none left.
  void drain() {
    uint64_t seen = ticket.load(std::memory_order_acquire);
    const uint64_t loop = seen >> 32;
    const uint64_t end = count.load(std::memory_order_acquire);
    const auto loop_body = body.load(std::memory_order_acquire);
    void* const argument = context.load(std::memory_order_acquire);
    while (seen >> 32 == loop && (seen & kClosed) < end) {
      if (!ticket.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel,
                                        std::memory_order_acquire)) {
        continue;
      }
      run_index(loop_body, argument, static_cast<int64_t>(seen & kClosed));
      if (static_cast<uint64_t>(done.fetch_add(1, std::memory_order_acq_rel)) + 1 == end) {
        done.notify_one();
      }
      seen = ticket.load(std::memory_order_acquire);
    }
  }

  void worker() {
    uint32_t seen = 0;
    while (true) {
      for (int spin = 0; loops.load(std::memory_order_acquire) == seen; ++spin) {
        if (spin < kSpinIterations) {
          cpu_relax();
        } else {
          loops.wait(seen, std::memory_order_acquire);
        }
      }
      seen = loops.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) {
        return;
      }
      drain();
    }
  }

  void open(int64_t size, void (*loop_body)(void*, int64_t), void* argument) {
    const uint64_t loop = (ticket.load(std::memory_order_relaxed) >> 32) + 1;
    // Whoever reads a field of this loop also sees that the ticket of the last one is gone.
    ticket.store(loop << 32 | kClosed, std::memory_order_relaxed);
    done.store(0, std::memory_order_relaxed);
    count.store(static_cast<uint64_t>(size), std::memory_order_release);
    body.store(loop_body, std::memory_order_release);
    context.store(argument, std::memory_order_release);
    ticket.store(loop << 32, std::memory_order_release);
    loops.fetch_add(1, std::memory_order_release);
    loops.notify_all();
  }

  static void run(void* pool, int64_t size, void (*body)(void*, int64_t), void* context) {
    auto& self = *static_cast<Impl*>(pool);
    ATOM_CHECK(size < static_cast<int64_t>(kClosed)) << size;
    self.open(size, body, context);
    self.drain();
    int64_t finished = self.done.load(std::memory_order_acquire);
    for (int spin = 0; finished < size; ++spin) {
      if (spin < kSpinIterations) {
        cpu_relax();
      } else {
        self.done.wait(finished, std::memory_order_acquire);
      }
      finished = self.done.load(std::memory_order_acquire);
    }
    self.rethrow_failure();
  }
};

ThreadPool::ThreadPool(int num_threads) : impl_(std::make_unique<Impl>()) {
  for (int i = 1; i < num_threads; ++i) {
    impl_->workers.emplace_back([this] { impl_->worker(); });
  }
}

ThreadPool::~ThreadPool() {
  impl_->stop.store(true);
  impl_->loops.fetch_add(1, std::memory_order_release);
  impl_->loops.notify_all();
  for (std::thread& worker : impl_->workers) {
    worker.join();
  }
}

int ThreadPool::num_threads() const { return static_cast<int>(impl_->workers.size()) + 1; }

ParallelFor ThreadPool::parallel_for() {
  return {.run = &Impl::run, .pool = impl_.get(), .num_threads = num_threads()};
}

int available_cpus() {
  int cpus = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    cpus = std::max(1, CPU_COUNT(&set));
  }
  std::ifstream cgroup("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (cgroup >> quota >> period && quota != "max" && period > 0) {
    cpus = std::clamp(static_cast<int>(std::ceil(std::strtod(quota.c_str(), nullptr) / period)), 1,
                      cpus);
  }
  return cpus;
}

}  // namespace atom
