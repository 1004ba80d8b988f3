// ThreadPool: a fixed set of threads that run one parallel_for at a time for the CPU kernels.
// Workers spin for a few microseconds between loops of a step and sleep when there is none: idle
// costs nothing. parallel_for is called by one thread at a time (the engine thread). When a body
// throws (out of memory), the first exception reaches the caller once the loop is over.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/common/parallel.h"

namespace atom {

class ThreadPool {
 public:
  // num_threads counts the calling thread: 1 creates no worker.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;
  ParallelFor parallel_for();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// CPUs this process may use: affinity mask and cgroup quota, at least 1.
int available_cpus();

}  // namespace atom
