// What belongs together in a trace: which zone of the host a launch was made in, which launch
// started which work of the device, and how long the device worked for an annotation.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "atom/profiler/trace_data.h"

namespace atom {

// Zones are numbered through all threads, from 1, in the order of TraceData: Kineto's "External
// id". 0: none.
using ZoneId = int64_t;

struct DeviceSpan {  // the device's work for one annotation, on one stream
  ZoneId zone = 0;
  int32_t device = 0;
  int32_t stream = 0;
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
};

struct TraceLinks {
  // By correlation: the innermost zone around the launch.
  std::unordered_map<uint32_t, ZoneId> zones;
  // Of every annotation with work, in the order of the annotations.
  std::vector<DeviceSpan> spans;
};

TraceLinks link_trace(const TraceData& data);

}  // namespace atom
