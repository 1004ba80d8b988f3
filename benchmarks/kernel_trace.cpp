// What a program does on the GPU, kernel by kernel, without touching it: a library that the CUDA
// driver loads when CUDA_INJECTION64_PATH names it. At the end of the process it prints, for every
// kernel, how often it ran, its time, and the idle time of the device before it; then the idle time
// between steps (before each `prepare_kernel`). Also inside captured graphs. Uses the toolkit's
// CUPTI, opened at run time. ATOM_TRACE_SKIP=s: leave out the first s seconds.
//   CUDA_INJECTION64_PATH=$PWD/libkernel_trace.so throughput_benchmark MODEL ...
#include <cupti.h>
#include <cxxabi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {

struct Record {
  uint64_t begin, end;
  const char* name;
};

std::mutex mutex;
std::vector<Record> records;

constexpr size_t kBufferBytes = 8 << 20;

void CUPTIAPI request_buffer(uint8_t** buffer, size_t* size, size_t* max_records) {
  *size = kBufferBytes;
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *max_records = 0;
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  const std::lock_guard lock(mutex);
  CUpti_Activity* activity = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &activity) == CUPTI_SUCCESS) {
    if (activity->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto* kernel = reinterpret_cast<CUpti_ActivityKernel9*>(activity);
      records.push_back({kernel->start, kernel->end, kernel->name});
    }
  }
  std::free(buffer);
}

std::string short_name(const char* name) {
  int status = 0;
  char* text = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  std::string result = status == 0 ? text : name;
  std::free(text);
  if (const size_t arguments = result.rfind(")("); arguments == std::string::npos) {
    result = result.substr(0, result.rfind('('));
  }
  for (const char* part : {"atom::gpu::", "(anonymous namespace)::", "void "}) {
    for (size_t at; (at = result.find(part)) != std::string::npos;) {
      result.erase(at, std::string(part).size());
    }
  }
  return result.substr(0, 68);
}

struct Row {
  int64_t count = 0;
  double busy = 0, idle = 0;
};

double percentile(std::vector<double>& values, double p) {
  if (values.empty()) {
    return 0;
  }
  const auto at = static_cast<size_t>(p * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(at), values.end());
  return values[at];
}

void print_table() {
  cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  const std::lock_guard lock(mutex);
  if (records.empty()) {
    return;
  }
  std::ranges::sort(records, {}, &Record::begin);
  const char* skip = std::getenv("ATOM_TRACE_SKIP");
  const uint64_t first =
      records.front().begin + static_cast<uint64_t>((skip ? std::atof(skip) : 0.0) * 1e9);
  std::map<std::string, Row> rows;
  std::map<const char*, std::string> names;
  std::vector<double> step_gaps;
  uint64_t last_end = 0;
  double busy = 0;
  uint64_t begin = 0;
  for (const Record& record : records) {
    if (record.begin < first) {
      continue;
    }
    begin = begin == 0 ? record.begin : begin;
    auto& name = names[record.name];
    if (name.empty()) {
      name = short_name(record.name);
    }
    Row& row = rows[name];
    ++row.count;
    // Kernels overlap at their edges (programmatic launch): only what is new counts.
    const uint64_t from = std::max(record.begin, last_end);
    const double gap = last_end > 0 && record.begin > last_end
                           ? static_cast<double>(record.begin - last_end) * 1e-3
                           : 0.0;
    row.busy += record.end > from ? static_cast<double>(record.end - from) * 1e-3 : 0.0;
    busy += record.end > from ? static_cast<double>(record.end - from) * 1e-3 : 0.0;
    row.idle += gap;
    if (name.find("prepare_kernel") != std::string::npos) {
      step_gaps.push_back(gap);
    }
    last_end = std::max(last_end, record.end);
  }
  const double span = static_cast<double>(last_end - begin) * 1e-3;
  std::vector<std::pair<std::string, Row>> sorted(rows.begin(), rows.end());
  std::ranges::sort(sorted,
                    [](const auto& a, const auto& b) { return a.second.busy > b.second.busy; });
  std::printf("trace: %zu kernels, %.1f ms, device busy %.1f %%\n", records.size(), span * 1e-3,
              100 * busy / span);
  std::printf("%8s %10s %7s %9s %10s  %s\n", "count", "us each", "% time", "us before", "total ms",
              "kernel");
  for (size_t i = 0; i < std::min<size_t>(sorted.size(), 24); ++i) {
    const auto& [name, row] = sorted[i];
    const auto count = static_cast<double>(row.count);
    std::printf("%8lld %10.2f %7.1f %9.2f %10.2f  %s\n", static_cast<long long>(row.count),
                row.busy / count, 100 * row.busy / span, row.idle / count, row.busy * 1e-3,
                name.c_str());
  }
  std::printf("idle before a step: median %.2f us, p90 %.2f us, %zu steps\n",
              percentile(step_gaps, 0.5), percentile(step_gaps, 0.9), step_gaps.size());
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjection() {
  cuptiActivityRegisterCallbacks(request_buffer, take_buffer);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
  std::atexit(print_table);
  return 1;
}
