#include "atom/core/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace atom {
namespace {

// Spinning bridges the gaps between the ops of one step (1-20 us); longer gaps sleep on a futex.
constexpr int kSpinIterations = 2000;

}  // namespace

struct ThreadPool::Impl {
  std::atomic<uint64_t> generation{0};
  std::atomic<int64_t> next{0};
  std::atomic<int> running{0};
  std::atomic<bool> stop{false};
  int64_t count = 0;
  void (*body)(void*, int64_t) = nullptr;
  void* context = nullptr;
  std::vector<std::thread> workers;

  void drain() {
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
      body(context, i);
    }
  }

  void worker() {
    uint64_t seen = 0;
    while (true) {
      for (int spin = 0; generation.load(std::memory_order_acquire) == seen; ++spin) {
        if (spin < kSpinIterations) {
          cpu_relax();
        } else {
          generation.wait(seen, std::memory_order_acquire);
        }
      }
      seen = generation.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_relaxed)) {
        return;
      }
      drain();
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        running.notify_one();
      }
    }
  }

  static void run(void* pool, int64_t count, void (*body)(void*, int64_t), void* context) {
    auto& self = *static_cast<Impl*>(pool);
    self.count = count;
    self.body = body;
    self.context = context;
    self.next.store(0, std::memory_order_relaxed);
    self.running.store(static_cast<int>(self.workers.size()), std::memory_order_relaxed);
    self.generation.fetch_add(1, std::memory_order_release);
    self.generation.notify_all();
    self.drain();
    // Every worker must have left drain() before the next loop may change its fields.
    for (int spin = 0;; ++spin) {
      const int left = self.running.load(std::memory_order_acquire);
      if (left == 0) {
        return;
      }
      if (spin < kSpinIterations) {
        cpu_relax();
      } else {
        self.running.wait(left, std::memory_order_acquire);
      }
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : impl_(std::make_unique<Impl>()) {
  for (int i = 1; i < num_threads; ++i) {
    impl_->workers.emplace_back([this] { impl_->worker(); });
  }
}

ThreadPool::~ThreadPool() {
  impl_->stop.store(true);
  impl_->generation.fetch_add(1, std::memory_order_release);
  impl_->generation.notify_all();
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
    cpus = std::clamp(static_cast<int>(std::ceil(std::strtod(quota.c_str(), nullptr) / period)), 1, cpus);
  }
  return cpus;
}

}  // namespace atom
