// TraceData: everything that one capture recorded, and the file that it becomes: Chrome trace
// events in the form of PyTorch's profiler (Kineto), as Perfetto, TensorBoard and chrome://tracing
// read them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "atom/core/error.h"
#include "atom/core/trace.h"
#include "kernels/common/device_tracer.h"

namespace atom {

struct TraceData {
  int64_t begin_ns = 0;  // since the epoch
  int64_t end_ns = 0;
  int rank = 0;
  std::vector<trace::ThreadEvents> threads;
  std::vector<DeviceActivity> device;  // all with times of this capture
  int64_t num_dropped_device = 0;  // activities that there was no room for
};

// Writes `path` (a .json.gz) whole or not at all.
Status write_trace(const TraceData& data, const std::string& path);

}  // namespace atom
