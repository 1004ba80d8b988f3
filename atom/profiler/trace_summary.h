// What a trace says in a page: time for each kind of step, the kernels (or ops) that take longest,
// how long the device waits before and inside steps. Reads the traces of this engine and those of
// PyTorch's profiler, plain or gzipped, in one pass and bounded memory.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "atom/core/error.h"

namespace atom {

// An event with a duration, times in microseconds.
struct TraceEvent {
  uint32_t name = 0;  // index into TraceEvents::names
  double begin = 0;
  double duration = 0;
  int64_t thread = 0;
};

struct TraceEvents {
  std::vector<std::string> names;
  std::vector<TraceEvent> annotations;         // steps and phases, on the host
  std::vector<TraceEvent> device_annotations;  // the same, on the device
  std::vector<TraceEvent> device;              // kernels, copies and fills
  std::vector<TraceEvent> ops;                 // of the host
  int64_t num_dropped = 0;                     // as the trace says
};

Result<TraceEvents> read_trace(const std::string& path);

// The files of a folder of traces (and of the folders below it), or the one file.
Result<std::vector<std::string>> find_traces(const std::string& path);

// Tables for a person; `num_rows` of the longest.
std::string summarize_trace(TraceEvents events, int num_rows);

}  // namespace atom
