#include "atom/profiler/profiler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "atom/core/json.h"
#include "atom/core/trace.h"
#include "atom/profiler/gzip_file.h"
#include "atom/profiler/trace_summary.h"

namespace atom {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// A device that does what a test says when the capture ends.
struct ScriptedTracer {
  static inline std::vector<DeviceActivity> activities;
  static inline int64_t dropped = 0;
  static inline DeviceTracer::Take take = nullptr;
  static inline void* user = nullptr;
  static inline DeviceStatus refused = nullptr;

  static DeviceStatus start(DeviceTracer::Take to, void* of) {
    take = to;
    user = of;
    return refused;
  }
  static DeviceStatus stop(int64_t* lost) {
    for (const DeviceActivity& activity : activities) take(user, &activity, 1);
    *lost = dropped;
    return nullptr;
  }
  static constexpr DeviceTracer kTable{.start = start, .stop = stop};
};

class ProfilerTest : public testing::Test {
 protected:
  void SetUp() override {
    ScriptedTracer::activities.clear();
    ScriptedTracer::dropped = 0;
    ScriptedTracer::refused = nullptr;
    dir_ =
        fs::path(testing::TempDir()) /
        ("profiler_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(dir_);
  }
  void TearDown() override { fs::remove_all(dir_); }

  static std::string text_of(const std::string& path) {
    std::string text;
    EXPECT_TRUE(read_gzip(path, [&](std::string_view piece) -> Status {
      text += piece;
      return {};
    }));
    return text;
  }
  // The events of a trace by "category/name".
  static std::multimap<std::string, boost::json::object> events_of(const std::string& path) {
    const auto parsed = parse_json(text_of(path));
    EXPECT_TRUE(parsed) << parsed.error().message;
    std::multimap<std::string, boost::json::object> events;
    for (const boost::json::value& value : parsed->at("traceEvents").as_array()) {
      const boost::json::object& event = value.as_object();
      const auto* category = event.if_contains("cat");
      events.emplace((category != nullptr ? std::string(category->as_string()) : "meta") + "/" +
                         std::string(event.at("name").as_string()),
                     event);
    }
    return events;
  }
  static double number(const boost::json::value& value) { return value.to_number<double>(); }

  fs::path dir_;
};

void one_step(const char* name) {
  const trace::Zone step([&] { return std::string(name); });
  const trace::Zone op("atom::linear", [] { return std::string("\"Input Dims\":[[1,2]]"); });
}

TEST_F(ProfilerTest, WritesWhatTheHostDid) {
  Profiler profiler({.dir = dir_.string(), .detailed = true}, nullptr);
  ASSERT_TRUE(profiler.start());
  one_step("prefill[bs=1 tok=5 ctx=5]");
  trace::memory_changed({.bytes = 64, .total_allocated = 128, .total_reserved = 256});
  const auto traces = profiler.stop();
  ASSERT_TRUE(traces) << traces.error().message;
  ASSERT_EQ(traces->size(), 1u);
  EXPECT_EQ(fs::path(traces->at(0)).parent_path(), dir_ / "rank_0");
  EXPECT_TRUE(traces->at(0).ends_with(".pt.trace.json.gz"));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_ / "rank_0"), {}), 1);

  const auto events = events_of(traces->at(0));
  const auto& step = events.find("user_annotation/prefill[bs=1 tok=5 ctx=5]")->second;
  const auto& op = events.find("cpu_op/atom::linear")->second;
  EXPECT_EQ(op.at("ph").as_string(), "X");
  EXPECT_GE(number(op.at("ts")), number(step.at("ts")));
  EXPECT_LE(number(op.at("dur")), number(step.at("dur")));
  EXPECT_EQ(op.at("tid"), step.at("tid"));
  EXPECT_EQ(number(op.at("args").at("Input Dims").at(0).at(1)), 2);
  const auto& memory = events.find("cpu_instant_event/[memory]")->second;
  EXPECT_EQ(number(memory.at("args").at("Total Allocated")), 128);
  EXPECT_EQ(events.count("meta/thread_name"), 1u);
}

TEST_F(ProfilerTest, LinksTheWorkOfTheDeviceToItsStep) {
  Profiler profiler({.dir = dir_.string()}, &ScriptedTracer::kTable);
  ASSERT_TRUE(profiler.start());
  const int64_t begin = trace::now_ns();
  uint32_t thread = 0;
  {
    const trace::Zone step([] { return std::string("decode[bs=2 tok=2 d=0 spec=0]"); });
    const trace::Zone op("atom::linear");
    const int64_t launch = trace::now_ns();
    thread = static_cast<uint32_t>(::gettid());
    ScriptedTracer::activities = {
        {.kind = DeviceActivityKind::kLaunch,
         .name = "cudaLaunchKernel",
         .begin_ns = launch,
         .end_ns = launch + 10,
         .correlation = 7,
         .thread = thread},
        {.name = "_ZN4atom3gpu6kernelEPfi",
         .begin_ns = begin + 5000,
         .end_ns = begin + 9000,
         .correlation = 7,
         .stream = 13,
         .grid = {4, 1, 1},
         .block = {128, 1, 1},
         .registers = 40},
        {.kind = DeviceActivityKind::kCopy,
         .begin_ns = begin + 9500,
         .end_ns = begin + 9600,
         .correlation = 7,
         .stream = 13,
         .bytes = 512,
         .direction = "HtoD"},
        // Not ended: without times.
        {.name = "_Z4lostv", .correlation = 7, .stream = 13},
    };
    ScriptedTracer::dropped = 3;
  }
  const auto traces = profiler.stop();
  ASSERT_TRUE(traces);
  const auto events = events_of(traces->at(0));
  const auto& op = events.find("cpu_op/atom::linear")->second;
  const auto& launch = events.find("cuda_runtime/cudaLaunchKernel")->second;
  const auto& kernel = events.find("kernel/atom::gpu::kernel(float*, int)")->second;
  EXPECT_EQ(kernel.at("args").at("correlation"), launch.at("args").at("correlation"));
  EXPECT_EQ(kernel.at("args").at("External id"), op.at("args").at("External id"));
  EXPECT_EQ(number(kernel.at("dur")), 4.0);
  EXPECT_EQ(number(kernel.at("args").at("block").at(0)), 128);
  EXPECT_EQ(events.count("gpu_memcpy/Memcpy HtoD"), 1u);
  EXPECT_EQ(events.count("ac2g/ac2g"), 3u);  // from the launch, to both
  const auto& span = events.find("gpu_user_annotation/decode[bs=2 tok=2 d=0 spec=0]")->second;
  EXPECT_EQ(number(span.at("dur")), 4.6);
  EXPECT_EQ(number(span.at("tid")), 13);
  EXPECT_EQ(events.count("kernel/lost()"), 0u);
  EXPECT_THAT(text_of(traces->at(0)), HasSubstr("\"droppedEvents\":3"));

  auto read = read_trace(traces->at(0));
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->num_dropped, 3);
  ASSERT_EQ(read->device.size(), 2u);
  const std::string summary = summarize_trace(std::move(*read), 5);
  EXPECT_THAT(summary, HasSubstr("decode"));
  EXPECT_THAT(summary, HasSubstr("busy 89.1 % of 0.0 ms"));  // 4.1 of 4.6 us
  EXPECT_THAT(summary, HasSubstr("kernel"));
}

TEST_F(ProfilerTest, ADeviceThatCannotBeTracedIsLeftOut) {
  ScriptedTracer::refused = "no permission";
  Profiler profiler({.dir = dir_.string()}, &ScriptedTracer::kTable);
  ASSERT_TRUE(profiler.start());
  one_step("decode[bs=1 tok=1 d=0 spec=0]");
  const auto traces = profiler.stop();
  ASSERT_TRUE(traces);
  EXPECT_EQ(events_of(traces->at(0)).count("cpu_op/atom::linear"), 1u);
}

TEST_F(ProfilerTest, RefusesWhatMakesNoSense) {
  Profiler none({}, nullptr);
  EXPECT_THAT(none.start().error().message, HasSubstr("--torch-profiler-dir"));
  Profiler profiler({.dir = dir_.string()}, nullptr);
  EXPECT_THAT(profiler.stop().error().message, HasSubstr("not running"));
  for (const std::string outside : {"..", "../other", "a/../../b", "/etc"}) {
    const Status refused = profiler.start(outside);
    ASSERT_FALSE(refused) << outside;
    EXPECT_EQ(refused.error().param, "output_dir");
  }
  ASSERT_TRUE(profiler.start("sub/folder"));
  EXPECT_THAT(profiler.start().error().message, HasSubstr("already running"));
  Profiler second({.dir = dir_.string()}, nullptr);
  EXPECT_THAT(second.start().error().message, HasSubstr("another engine"));
  const auto traces = profiler.stop();
  ASSERT_TRUE(traces);
  EXPECT_THAT(traces->at(0), HasSubstr("/sub/folder/rank_0/"));
  EXPECT_TRUE(second.start());
}

TEST_F(ProfilerTest, AFolderThatCannotBeMadeIsNamed) {
  fs::create_directories(dir_);
  { std::ofstream(dir_ / "file") << "x"; }
  Profiler profiler({.dir = (dir_ / "file").string()}, nullptr);
  EXPECT_THAT(profiler.start().error().message, HasSubstr("file/rank_0"));
  EXPECT_FALSE(trace::is_capturing());
}

TEST_F(ProfilerTest, TheNewestActivitiesAreKept) {
  DeviceEvents events;
  std::vector<DeviceActivity> piece(1 << 20);
  for (int i = 0; i < 5; ++i) {
    piece[0].correlation = static_cast<uint32_t>(i);
    DeviceEvents::take(&events, piece.data(), piece.size());
  }
  EXPECT_EQ(events.num_dropped(), 2 << 20);
  const std::vector<DeviceActivity> kept = events.release();
  EXPECT_EQ(kept.size(), DeviceEvents::kMaxActivities);
  EXPECT_EQ(kept[0].correlation, 2u);
}

TEST_F(ProfilerTest, ReadsATraceOfPyTorchAndRefusesWhatIsNone) {
  fs::create_directories(dir_ / "below");
  const std::string path = (dir_ / "below" / "w.pt.trace.json").string();
  std::ofstream(path) << R"x({"schemaVersion":1,"deviceProperties":[{"id":0}],"traceEvents":[
    {"ph":"X","cat":"cpu_op","name":"aten::mm","pid":1,"tid":1,"ts":1.5,"dur":10,"args":{"Input Dims":[[1,2]]}},
    {"ph":"X","cat":"kernel","name":"gemm","pid":0,"tid":7,"ts":5,"dur":20.5,"args":{"name":"x"}},
    {"ph":"X","cat":"user_annotation","name":"ProfilerStep#1","pid":1,"tid":1,"ts":1,"dur":12},
    {"ph":"X","cat":"Trace","name":"PyTorch Profiler (0)","pid":"Spans","tid":"Profiler","ts":1,"dur":99},
    {"ph":"M","name":"process_name","pid":1,"tid":0,"args":{"name":"python"}}],"traceName":"w"})x";
  const auto found = find_traces(dir_.string());
  ASSERT_TRUE(found);
  ASSERT_EQ(*found, std::vector<std::string>{path});
  const auto events = read_trace(path);
  ASSERT_TRUE(events) << events.error().message;
  ASSERT_EQ(events->device.size(), 1u);
  EXPECT_EQ(events->device[0].duration, 20.5);
  EXPECT_EQ(events->ops.size(), 1u);
  EXPECT_THAT(summarize_trace(*events, 3), HasSubstr("ProfilerStep"));

  for (const char* text : {"", "{\"traceEvents\":[{\"ph\":\"X\"", "[1,2]", "{}", "{\"a\":1} x"}) {
    std::ofstream(path) << text;
    const auto refused = read_trace(path);
    ASSERT_FALSE(refused) << text;
    EXPECT_THAT(refused.error().message, HasSubstr("not a trace")) << text;
  }
  EXPECT_FALSE(read_trace((dir_ / "none.json").string()));
  fs::remove(path);
  EXPECT_THAT(find_traces(dir_.string()).error().message, HasSubstr("no traces"));
}

}  // namespace
}  // namespace atom
