#include "atom/core/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace atom {
namespace {

TEST(ThreadPool, RunsEveryIndexOnce) {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (const int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> hits(static_cast<size_t>(count));
      for (int repeat = 0; repeat < 50; ++repeat) {
        pool.parallel_for()(count, [&](int64_t i) { ++hits[static_cast<size_t>(i)]; });
      }
      for (const auto& hit : hits) {
        EXPECT_EQ(hit.load(), 50);
      }
    }
  }
}

TEST(ThreadPool, AvailableCpusIsPositive) { EXPECT_GE(available_cpus(), 1); }

}  // namespace
}  // namespace atom
