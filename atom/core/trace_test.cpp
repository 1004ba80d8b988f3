#include "atom/core/trace.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>

namespace atom::trace {
namespace {

TEST(Trace, NothingIsRecordedOutsideACapture) {
  bool named = false;
  {
    const Zone op("op");
    const Zone annotation([&] {
      named = true;
      return std::string("step");
    });
  }
  EXPECT_FALSE(named);
  start({});
  EXPECT_TRUE(stop().empty());
}

TEST(Trace, ZonesNestAndCarryTheirThread) {
  start({});
  {
    const Zone step([] { return std::string("decode[bs=1]"); });
    const Zone op("linear", [] { return std::string("\"never\":1"); });
  }
  std::thread([] { const Zone op("other"); }).join();
  const std::vector<ThreadEvents> threads = stop();
  ASSERT_EQ(threads.size(), 2u);
  ASSERT_EQ(threads[0].events.size(), 2u);
  const Event& op = threads[0].events[0];  // ended first
  const Event& step = threads[0].events[1];
  EXPECT_STREQ(op.name, "linear");
  EXPECT_EQ(op.text, "");  // details were not asked for
  EXPECT_EQ(op.category, Category::kCpuOp);
  EXPECT_EQ(step.name, nullptr);
  EXPECT_EQ(step.text, "decode[bs=1]");
  EXPECT_EQ(step.category, Category::kUserAnnotation);
  EXPECT_LE(step.begin_ns, op.begin_ns);
  EXPECT_LE(op.begin_ns, op.end_ns);
  EXPECT_LE(op.end_ns, step.end_ns);
  EXPECT_NE(threads[0].thread_id, threads[1].thread_id);
  EXPECT_STREQ(threads[1].events.at(0).name, "other");
}

TEST(Trace, DetailsAndMemoryWhenAskedFor) {
  start({.detailed = true});
  {
    const Zone op("linear", [] { return std::string("\"k\":1"); });
  }
  memory_changed({.bytes = 64, .total_allocated = 128, .total_reserved = 256});
  const std::vector<ThreadEvents> threads = stop();
  ASSERT_EQ(threads.size(), 1u);
  ASSERT_EQ(threads[0].events.size(), 2u);
  EXPECT_EQ(threads[0].events[0].text, "\"k\":1");
  EXPECT_EQ(threads[0].events[1].category, Category::kMemory);
  EXPECT_EQ(threads[0].events[1].memory.total_allocated, 128);
  EXPECT_FALSE(is_detailed());
}

TEST(Trace, TheOldestIsDroppedAndCounted) {
  start({.max_events_per_thread = 3});
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    const Zone op(name);
  }
  const std::vector<ThreadEvents> threads = stop();
  ASSERT_EQ(threads.size(), 1u);
  EXPECT_EQ(threads[0].num_dropped, 2);
  ASSERT_EQ(threads[0].events.size(), 3u);
  EXPECT_STREQ(threads[0].events[0].name, "c");
  EXPECT_STREQ(threads[0].events[2].name, "e");
}

TEST(Trace, AZoneThatOutlivesItsCaptureIsLost) {
  start({});
  {
    const Zone op("late");
    EXPECT_TRUE(stop().empty());
  }
  start({});
  EXPECT_TRUE(stop().empty());
}

TEST(Trace, ASecondCaptureStartsEmpty) {
  start({});
  { const Zone op("first"); }
  EXPECT_EQ(stop().size(), 1u);
  start({});
  { const Zone op("second"); }
  const std::vector<ThreadEvents> threads = stop();
  ASSERT_EQ(threads.size(), 1u);
  ASSERT_EQ(threads[0].events.size(), 1u);
  EXPECT_STREQ(threads[0].events[0].name, "second");
}

}  // namespace
}  // namespace atom::trace
