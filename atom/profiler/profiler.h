// Profiler: captures what host and device do and writes one trace a capture:
// <dir>/rank_0/<host>_<pid>.<time>.pt.trace.json.gz, which appears complete. Zones are
// core/trace.h, the device's part comes through a DeviceTracer. Bounded: the oldest is dropped.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "atom/config.h"
#include "atom/core/error.h"
#include "atom/profiler/trace_data.h"
#include "kernels/common/device_tracer.h"

namespace atom {

// What the device did, from any thread. The newest kMaxActivities at most.
class DeviceEvents {
 public:
  static constexpr size_t kMaxActivities = size_t{3} << 20;

  // A DeviceTracer::Take; `user` is a DeviceEvents.
  static void take(void* user, const DeviceActivity* activities, size_t count);
  std::vector<DeviceActivity> release();
  int64_t num_dropped() const { return num_dropped_; }

 private:
  std::mutex mutex_;
  std::deque<std::vector<DeviceActivity>> pieces_;
  size_t count_ = 0;
  int64_t num_dropped_ = 0;
};

// Owner: the engine. Any thread. One capture in a process at a time.
class Profiler {
 public:
  // `tracer`: of the device, prepared; nullptr where there is none. Outlives the profiler.
  Profiler(ProfilerConfig config, const DeviceTracer* tracer);
  ~Profiler();  // ends a capture without a trace
  Profiler(const Profiler&) = delete;
  Profiler& operator=(const Profiler&) = delete;

  // `output_dir`: a folder below the configured one, empty for that one itself. Refuses when no
  // folder is configured, one that is not below it, and a second capture.
  Status start(const std::string& output_dir = {});
  // Returns when the trace is written: its path, one a rank.
  Result<std::vector<std::string>> stop();

 private:
  enum class State { kIdle, kCapturing, kWriting };

  TraceData end_capture();
  Result<std::vector<std::string>> write(const TraceData& data) const;

  const ProfilerConfig config_;
  const DeviceTracer* const tracer_;
  std::mutex mutex_;
  State state_ = State::kIdle;
  std::string dir_;  // of this capture
  int64_t begin_ns_ = 0;
  bool device_traced_ = false;
  DeviceEvents device_events_;
};

}  // namespace atom
