// What a program does on the GPU, kernel by kernel, without touching it: a library that the CUDA
// driver loads when CUDA_INJECTION64_PATH names it. At the end of the process it prints, for every
// kernel, how often it ran, its time, and the idle time of the device before it; then the idle time
// between steps (before each `prepare_kernel`), and what steps of each size spend their time on.
// Also inside captured graphs. Uses the toolkit's CUPTI, opened at run time. ATOM_TRACE_SKIP=s:
// leave out the first s seconds.
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
  int32_t blocks;
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
      records.push_back({kernel->start, kernel->end, kernel->name, kernel->gridX});
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

// What a kernel is for, by its name.
enum Part { kProducts, kDecode, kPrefill, kSampler, kRest, kNumParts };

Part part_of(const std::string& name) {
  const auto has = [&](const char* text) { return name.find(text) != std::string::npos; };
  if (has("prefill")) return kPrefill;
  if (has("decode")) return kDecode;
  if (has("nvjet") || has("cublas") || has("gemm") || has("small_linear") || has("ring_linear") ||
      has("cutlass")) {
    return kProducts;
  }
  return has("scan_kernel") || has("draw_kernel") ? kSampler : kRest;
}

// Steps of one size: the blocks of its embedding kernel tell how many tokens it has.
struct StepRow {
  int64_t count = 0;
  double span = 0, longest = 0, before = 0, inside = 0;  // microseconds; idle before and inside
  double busy[kNumParts] = {};
};

// One step: from a prepare_kernel to the next.
struct Step {
  int32_t blocks = 0;
  uint64_t begin = 0, end = 0;
  double before = 0;
  double busy[kNumParts] = {};
};

class StepTable {
 public:
  void add(const std::string& name, const Record& record, double busy, double gap) {
    if (name.find("prepare_kernel") != std::string::npos) {
      close();
      step_ = {.begin = record.begin, .before = gap};
    }
    if (step_.begin == 0) return;
    if (name.find("embedding") != std::string::npos) step_.blocks = record.blocks;
    step_.busy[part_of(name)] += busy;
    step_.end = std::max(step_.end, record.end);
  }

  void print() {
    close();
    std::vector<std::pair<int32_t, StepRow>> sorted(rows_.begin(), rows_.end());
    std::ranges::sort(sorted,
                      [](const auto& a, const auto& b) { return a.second.span > b.second.span; });
    std::printf("steps by blocks of their embedding kernel (2048 values each); mean us\n");
    std::printf("%7s %6s %9s %8s %8s %8s %8s %8s %8s %8s %8s\n", "blocks", "count", "total ms",
                "step", "longest", "products", "decode", "prefill", "sampler", "rest", "idle");
    for (size_t i = 0; i < std::min<size_t>(sorted.size(), 14); ++i) {
      const auto& [blocks, row] = sorted[i];
      const auto n = static_cast<double>(row.count);
      std::printf("%7d %6.0f %9.1f %8.0f %8.0f %8.0f %8.0f %8.0f %8.0f %8.0f %8.1f\n", blocks, n,
                  row.span * 1e-3, row.span / n, row.longest, row.busy[kProducts] / n,
                  row.busy[kDecode] / n, row.busy[kPrefill] / n, row.busy[kSampler] / n,
                  row.busy[kRest] / n, (row.inside + row.before) / n);
    }
  }

 private:
  void close() {
    if (step_.begin == 0) return;
    StepRow& row = rows_[step_.blocks];
    const double span = static_cast<double>(step_.end - step_.begin) * 1e-3;
    double busy = 0;
    for (int part = 0; part < kNumParts; ++part) {
      row.busy[part] += step_.busy[part];
      busy += step_.busy[part];
    }
    ++row.count;
    row.span += span + step_.before;
    row.longest = std::max(row.longest, span + step_.before);
    row.before += step_.before;
    row.inside += std::max(0.0, span - busy);
    step_ = {};
  }

  std::map<int32_t, StepRow> rows_;
  Step step_;
};

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
  StepTable steps;
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
    const double own = record.end > from ? static_cast<double>(record.end - from) * 1e-3 : 0.0;
    row.busy += own;
    busy += own;
    row.idle += gap;
    steps.add(name, record, own, gap);
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
  steps.print();
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjection() {
  cuptiActivityRegisterCallbacks(request_buffer, take_buffer);
  cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
  std::atexit(print_table);
  return 1;
}
