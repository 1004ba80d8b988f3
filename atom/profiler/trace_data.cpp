// The writer: metadata, zones of the host by thread, launches with their arrows, work of the
// device, and the device's share of each annotation.
#include "atom/profiler/trace_data.h"

#include <cxxabi.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <charconv>
#include <concepts>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string_view>
#include <unordered_map>

#include "atom/profiler/gzip_file.h"
#include "atom/profiler/trace_links.h"

namespace atom {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 20;
constexpr int64_t kSecond = 1'000'000'000;

std::string demangled(const char* name) {
  int failed = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(
      abi::__cxa_demangle(name, nullptr, nullptr, &failed), std::free);
  return failed == 0 ? text.get() : name;
}

class TraceWriter {
 public:
  TraceWriter(const TraceData& data, GzipFile& file)
      : data_(data),
        links_(link_trace(data)),
        file_(file),
        base_(data.begin_ns / kSecond * kSecond) {
    for (const trace::ThreadEvents& thread : data.threads) {
      for (const trace::Event& event : thread.events) {
        zone_names_.push_back(&event);
      }
    }
  }

  Status write() {
    put("{\"schemaVersion\":1,\"displayTimeUnit\":\"ms\",\"baseTimeNanoseconds\":", base_,
        ",\"producer\":\"atom " ATOM_VERSION "\",\"droppedEvents\":", dropped(),
        ",\"distributedInfo\":{\"rank\":", data_.rank, "},\"traceEvents\":[\n");
    metadata();
    ATOM_RETURN_IF_ERROR(host());
    ATOM_RETURN_IF_ERROR(device());
    for (const DeviceSpan& span : links_.spans) {
      device_annotation(span);
    }
    instant("Record Window End", data_.end_ns);
    put("\n]}\n");
    return file_.append(std::exchange(text_, {}));
  }

 private:
  void put(std::string_view text) { text_ += text; }
  void put(std::integral auto number) {
    char digits[24];
    text_.append(digits, std::to_chars(digits, digits + sizeof(digits), number).ptr);
  }
  template <class First, class Second, class... Rest>
  void put(const First& first, const Second& second, const Rest&... rest) {
    put(first);
    put(second, rest...);
  }
  // Microseconds with three decimals.
  void put_us(int64_t ns) {
    if (ns < 0) {
      put("-");
      ns = -ns;
    }
    const int64_t rest = ns % 1000;
    put(ns / 1000, rest < 10 ? ".00" : rest < 100 ? ".0" : ".", rest);
  }
  void put_string(std::string_view text) {
    auto known = quoted_.find(text);
    if (known == quoted_.end()) {
      known = quoted_.emplace(text, boost::json::serialize(boost::json::value(text))).first;
    }
    put(known->second);
  }

  Status flush() {
    if (text_.size() < kPieceBytes) {
      return {};
    }
    const Status written = file_.append(text_);
    text_.clear();
    return written;
  }

  int64_t dropped() const {
    int64_t count = data_.num_dropped_device;
    for (const trace::ThreadEvents& thread : data_.threads) {
      count += thread.num_dropped;
    }
    return count;
  }

  // {"ph":..,"cat":..,"name":..,"pid":..,"tid":..,"ts":..   (open)
  void begin_event(const char* phase, const char* category, std::string_view name, int64_t process,
                   int64_t thread, int64_t begin_ns) {
    put(is_first_ ? "" : ",\n", "{\"ph\":\"", phase, "\",\"cat\":\"", category, "\",\"name\":");
    is_first_ = false;
    put_string(name);
    put(",\"pid\":", process, ",\"tid\":", thread, ",\"ts\":");
    put_us(begin_ns - base_);
  }
  void begin_complete(const char* category, std::string_view name, int64_t process, int64_t thread,
                      int64_t begin_ns, int64_t end_ns) {
    begin_event("X", category, name, process, thread, begin_ns);
    put(",\"dur\":");
    put_us(end_ns - begin_ns);
  }
  void instant(std::string_view name, int64_t time_ns) {
    begin_event("i", "instant", name, process_, process_, time_ns);
    put(",\"s\":\"g\"}");
  }

  void name_metadata(const char* kind, int64_t process, int64_t thread, const char* key,
                     std::string_view value) {
    put(is_first_ ? "" : ",\n", "{\"ph\":\"M\",\"name\":\"", kind, "\",\"ts\":0,\"pid\":", process,
        ",\"tid\":", thread, ",\"args\":{\"");
    is_first_ = false;
    put(key, "\":");
    put_string(value);
    put("}}");
  }

  void metadata() {
    name_metadata("process_name", process_, 0, "name", "atom");
    name_metadata("process_labels", process_, 0, "labels", "CPU");
    for (const trace::ThreadEvents& thread : data_.threads) {
      name_metadata("thread_name", process_, thread.thread_id, "name",
                    "thread " + std::to_string(thread.thread_id) + " (" + thread.thread_name + ")");
    }
    std::map<int32_t, std::set<int32_t>> streams;
    for (const DeviceActivity& activity : data_.device) {
      if (activity.kind != DeviceActivityKind::kLaunch) {
        streams[activity.device].insert(activity.stream);
      }
    }
    for (const auto& [device, of_device] : streams) {
      name_metadata("process_name", device, 0, "name", "atom");
      name_metadata("process_labels", device, 0, "labels", "GPU " + std::to_string(device));
      for (const int32_t stream : of_device) {
        name_metadata("thread_name", device, stream, "name", "stream " + std::to_string(stream));
      }
    }
  }

  Status host() {
    ZoneId id = 1;
    for (const trace::ThreadEvents& thread : data_.threads) {
      for (const trace::Event& event : thread.events) {
        if (event.category == trace::Category::kMemory) {
          memory(event, thread.thread_id);
        } else {
          zone(event, thread.thread_id, id);
        }
        ++id;
        ATOM_RETURN_IF_ERROR(flush());
      }
    }
    return {};
  }

  void zone(const trace::Event& event, int64_t thread, ZoneId id) {
    const bool is_op = event.category == trace::Category::kCpuOp;
    begin_complete(is_op ? "cpu_op" : "user_annotation", name_of(event), process_, thread,
                   event.begin_ns, event.end_ns);
    put(",\"args\":{\"External id\":", id, ",\"Ev Idx\":", id - 1);
    if (event.name != nullptr && !event.text.empty()) {
      put(",", event.text);
    }
    put("}}");
  }

  void memory(const trace::Event& event, int64_t thread) {
    begin_event("i", "cpu_instant_event", "[memory]", process_, thread, event.begin_ns);
    const trace::MemoryEvent& memory = event.memory;
    put(",\"s\":\"t\",\"args\":{\"Total Reserved\":", memory.total_reserved,
        ",\"Total Allocated\":", memory.total_allocated, ",\"Bytes\":", memory.bytes,
        ",\"Addr\":0,\"Device Id\":", memory.device,
        ",\"Device Type\":", memory.device < 0 ? 0 : 1);
    put("}}");
  }

  Status device() {
    for (const DeviceActivity& activity : data_.device) {
      if (activity.kind == DeviceActivityKind::kLaunch) {
        launch(activity);
      } else {
        work(activity);
      }
      ATOM_RETURN_IF_ERROR(flush());
    }
    return {};
  }

  void launch(const DeviceActivity& call) {
    const bool is_driver = std::strncmp(call.name, "cu", 2) == 0 && call.name[2] != 'd';
    begin_complete(is_driver ? "cuda_driver" : "cuda_runtime", call.name, process_, call.thread,
                   call.begin_ns, call.end_ns);
    put_link(call.correlation);
    put("}}");
    arrow("s", process_, call.thread, call.begin_ns, call.correlation);
  }

  void work(const DeviceActivity& work) {
    begin_complete(category_of(work.kind), work_name(work), work.device, work.stream, work.begin_ns,
                   work.end_ns);
    put_link(work.correlation);
    put(",\"device\":", work.device, ",\"stream\":", work.stream);
    if (work.kind == DeviceActivityKind::kKernel) {
      put(",\"registers per thread\":", work.registers, ",\"shared memory\":", work.shared_memory);
      put_three(",\"grid\":[", work.grid);
      put_three(",\"block\":[", work.block);
    } else {
      put(",\"bytes\":", work.bytes);
    }
    put("}}");
    arrow("f", work.device, work.stream, work.begin_ns, work.correlation);
  }

  void put_three(std::string_view open, const int32_t (&values)[3]) {
    put(open, values[0], ",", values[1], ",", values[2], "]");
  }
  void put_link(uint32_t correlation) {
    const auto zone = links_.zones.find(correlation);
    put(",\"args\":{");
    if (zone != links_.zones.end()) {
      put("\"External id\":", zone->second, ",");
    }
    put("\"correlation\":", correlation);
  }
  void arrow(const char* phase, int64_t process, int64_t thread, int64_t time_ns,
             uint32_t correlation) {
    begin_event(phase, "ac2g", "ac2g", process, thread, time_ns);
    put(",\"id\":", correlation, phase[0] == 'f' ? ",\"bp\":\"e\"}" : "}");
  }

  static const char* category_of(DeviceActivityKind kind) {
    switch (kind) {
      case DeviceActivityKind::kKernel:
        return "kernel";
      case DeviceActivityKind::kCopy:
        return "gpu_memcpy";
      case DeviceActivityKind::kFill:
        return "gpu_memset";
      case DeviceActivityKind::kLaunch:
        return "cuda_runtime";
    }
    return "";
  }
  std::string_view work_name(const DeviceActivity& work) {
    if (work.kind == DeviceActivityKind::kFill) {
      return "Memset (Device)";
    }
    std::string& name = names_[work.kind == DeviceActivityKind::kCopy ? work.direction : work.name];
    if (name.empty()) {
      name = work.kind == DeviceActivityKind::kCopy ? std::string("Memcpy ") + work.direction
                                                    : demangled(work.name);
    }
    return name;
  }

  static std::string_view name_of(const trace::Event& event) {
    return event.name != nullptr ? std::string_view(event.name) : std::string_view(event.text);
  }

  void device_annotation(const DeviceSpan& span) {
    begin_complete("gpu_user_annotation", name_of(*zone_names_[static_cast<size_t>(span.zone - 1)]),
                   span.device, span.stream, span.begin_ns, span.end_ns);
    put(",\"args\":{\"External id\":", span.zone, "}}");
  }

  const TraceData& data_;
  const TraceLinks links_;
  GzipFile& file_;
  const int64_t base_;  // whole seconds since the epoch; times are small beside it, and exact
  const int64_t process_ = ::getpid();
  std::vector<const trace::Event*> zone_names_;             // by ZoneId - 1
  std::unordered_map<const char*, std::string> names_;      // of kernels, readable
  std::map<std::string, std::string, std::less<>> quoted_;  // texts as JSON
  std::string text_;
  bool is_first_ = true;
};

}  // namespace

Status write_trace(const TraceData& data, const std::string& path) {
  ATOM_ASSIGN_OR_RETURN(const std::unique_ptr<GzipFile> file, GzipFile::create(path));
  ATOM_RETURN_IF_ERROR(TraceWriter(data, *file).write());
  return file->finish();
}

}  // namespace atom
