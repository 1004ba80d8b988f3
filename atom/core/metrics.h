// Counter and Histogram: numbers that the hot path adds to without a lock and /metrics reads at any
// time. How they are named and printed is entrypoints/openai/prometheus_text. To add a metric: a
// member in the struct of its room (EngineMetrics, ApiMetrics) and a row in metrics_routes.cpp.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

namespace atom {

// Any number of writers.
class Counter {
 public:
  void add(int64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

// Counts of observations per bucket, and their sum. Readers see every bucket at or after the moment
// they ask; the total is the sum of the buckets they saw, so it always agrees with them.
class Histogram {
 public:
  // `bounds` ascend; each is the greatest value of its bucket. One more bucket takes the rest.
  explicit Histogram(std::span<const double> bounds)
      : bounds_(bounds.begin(), bounds.end()), counts_(bounds.size() + 1) {}

  // Only ever one thread: no locked instruction.
  void observe(double value) {
    std::atomic<int64_t>& count = counts_[bucket_of(value)];
    count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    sum_.store(sum_.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
  }
  // Any thread. A histogram is written either this way or the other.
  void observe_shared(double value) {
    counts_[bucket_of(value)].fetch_add(1, std::memory_order_relaxed);
    sum_.fetch_add(value, std::memory_order_relaxed);
  }

  std::span<const double> bounds() const { return bounds_; }
  int64_t count(size_t bucket) const { return counts_[bucket].load(std::memory_order_relaxed); }
  double sum() const { return sum_.load(std::memory_order_relaxed); }

 private:
  size_t bucket_of(double value) const {
    return static_cast<size_t>(std::lower_bound(bounds_.begin(), bounds_.end(), value) -
                               bounds_.begin());
  }

  std::vector<double> bounds_;
  std::vector<std::atomic<int64_t>> counts_;
  std::atomic<double> sum_{0};
};

}  // namespace atom
