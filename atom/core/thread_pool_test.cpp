#include "atom/core/thread_pool.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <new>
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

// Many short loops with changing bodies and sizes: a worker that comes late must not run, count or
// skip an index of another loop. More threads than CPUs, so that some always come late.
TEST(ThreadPool, LateWorkersNeverTouchAnotherLoop) {
  ThreadPool pool(8);
  int64_t wrong = 0;
  for (int64_t loop = 0; loop < 20000; ++loop) {
    const int64_t count = 1 + loop % 5;
    std::array<std::atomic<int64_t>, 5> sums{};
    pool.parallel_for()(count, [&](int64_t i) { sums[static_cast<size_t>(i)] += loop + i; });
    for (int64_t i = 0; i < 5; ++i) {
      wrong += sums[static_cast<size_t>(i)] == (i < count ? loop + i : 0) ? 0 : 1;
    }
  }
  EXPECT_EQ(wrong, 0);
}

TEST(ThreadPool, AnExceptionReachesTheCallerAndThePoolLives) {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int repeat = 0; repeat < 50; ++repeat) {
      EXPECT_THROW(pool.parallel_for()(100,
                                       [&](int64_t i) {
                                         if (i >= repeat) throw std::bad_alloc();
                                       }),
                   std::bad_alloc);
      std::atomic<int> hits = 0;
      pool.parallel_for()(100, [&](int64_t) { ++hits; });
      EXPECT_EQ(hits.load(), 100);
    }
  }
}

TEST(ThreadPool, AvailableCpusIsPositive) { EXPECT_GE(available_cpus(), 1); }

}  // namespace
}  // namespace atom
