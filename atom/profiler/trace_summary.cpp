#include "atom/profiler/trace_summary.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "atom/core/format.h"

namespace atom {
namespace {

namespace fs = std::filesystem;

constexpr size_t kNameWidth = 76;

double percentile(std::vector<double> values, double p) {
  if (values.empty()) {
    return 0;
  }
  const auto at = static_cast<ptrdiff_t>(p * static_cast<double>(values.size() - 1) + 0.5);
  std::ranges::nth_element(values, values.begin() + at);
  return values[static_cast<size_t>(at)];
}

double end_of(const TraceEvent& event) { return event.begin + event.duration; }

// "prefill" of "prefill[bs=1 tok=5 ctx=5]", "ProfilerStep" of "ProfilerStep#7".
std::string kind_of(const std::string& name) { return name.substr(0, name.find_first_of("[#")); }

// A kernel's name without what its arguments and namespaces add.
std::string short_name(std::string name) {
  if (name.ends_with(')')) {
    int depth = 0;
    for (size_t at = name.size(); at-- > 0;) {
      depth += name[at] == ')' ? 1 : name[at] == '(' ? -1 : 0;
      if (depth == 0) {
        name.resize(at > 0 ? at : name.size());
        break;
      }
    }
  }
  for (const std::string_view part : {"(anonymous namespace)::", "atom::gpu::", "void "}) {
    for (size_t at; (at = name.find(part)) != std::string::npos;) {
      name.erase(at, part.size());
    }
  }
  return name.size() <= kNameWidth ? name : name.substr(0, kNameWidth - 3) + "...";
}

// Time that at least one event covers; the events are in order of their begin.
struct Busy {
  double total = 0;
  double until = 0;
  void add(const TraceEvent& event) {
    const double from = std::max(event.begin, until);
    total += std::max(0.0, end_of(event) - from);
    until = std::max(until, end_of(event));
  }
};

struct StepKind {
  std::vector<double> host, device, busy, gap;  // microseconds a step
};

std::string number(double value) { return str_format("{:.1f}", value); }

class Summary {
 public:
  Summary(TraceEvents&& events, size_t num_rows) : e_(std::move(events)), num_rows_(num_rows) {
    for (std::vector<TraceEvent>* list :
         {&e_.annotations, &e_.device_annotations, &e_.device, &e_.ops}) {
      std::ranges::sort(*list, {}, &TraceEvent::begin);
    }
  }

  std::string text() {
    head();
    steps();
    longest(e_.device.empty() ? e_.ops : e_.device, e_.device.empty() ? "op" : "kernel");
    return std::move(text_);
  }

 private:
  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    text_ += str_format(format, std::forward<Args>(args)...) + "\n";
  }

  void head() {
    double begin = 0, end = 0;
    bool any = false;
    for (const auto* list : {&e_.annotations, &e_.device, &e_.ops}) {
      for (const TraceEvent& event : *list) {
        begin = any ? std::min(begin, event.begin) : event.begin;
        end = any ? std::max(end, end_of(event)) : end_of(event);
        any = true;
      }
    }
    line("{:.1f} ms; {} annotations, {} ops, {} device activities{}", (end - begin) * 1e-3,
         e_.annotations.size(), e_.ops.size(), e_.device.size(),
         e_.num_dropped > 0 ? str_format("; {} older events were dropped", e_.num_dropped) : "");
    if (e_.device.empty()) {
      return;
    }
    Busy busy;
    for (const TraceEvent& event : e_.device) {
      busy.add(event);
    }
    const double span = std::max(busy.until - e_.device.front().begin, 1e-9);
    line("device: busy {:.1f} % of {:.1f} ms, idle {:.1f} ms", 100 * busy.total / span, span * 1e-3,
         (span - busy.total) * 1e-3);
  }

  // The device's work for one annotation may lie on several streams: what overlaps is one step.
  std::vector<TraceEvent> device_steps() const {
    std::vector<TraceEvent> steps;
    for (const TraceEvent& event : e_.device_annotations) {
      if (!steps.empty() && event.name == steps.back().name && event.begin < end_of(steps.back())) {
        steps.back().duration = std::max(end_of(steps.back()), end_of(event)) - steps.back().begin;
      } else {
        steps.push_back(event);
      }
    }
    return steps;
  }

  void device_times(std::map<std::string, StepKind>& kinds) const {
    size_t next = 0;
    double last_end = 0;  // of the device's work so far
    for (const TraceEvent& step : device_steps()) {
      StepKind& kind = kinds[kind_of(e_.names[step.name])];
      while (next < e_.device.size() && end_of(e_.device[next]) <= step.begin) {
        last_end = std::max(last_end, end_of(e_.device[next++]));
      }
      kind.device.push_back(step.duration);
      if (last_end > 0) {
        kind.gap.push_back(std::max(0.0, step.begin - last_end));
      }
      Busy busy{.until = step.begin};
      for (; next < e_.device.size() && e_.device[next].begin < end_of(step); ++next) {
        busy.add(e_.device[next]);
      }
      kind.busy.push_back(std::min(busy.total, step.duration));
      last_end = std::max(last_end, busy.until);
    }
  }

  void steps() {
    std::map<std::string, StepKind> kinds;
    for (const TraceEvent& event : e_.annotations) {
      kinds[kind_of(e_.names[event.name])].host.push_back(event.duration);
    }
    device_times(kinds);
    if (kinds.empty()) {
      return;
    }
    line("\n{:<22} {:>7} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11}", "tag; mean us", "count",
         "host", "host p90", "device", "idle in it", "idle before", "  p90");
    for (const auto& [name, kind] : kinds) {
      const auto mean = [](const std::vector<double>& values) {
        double sum = 0;
        for (const double value : values) sum += value;
        return values.empty() ? std::string("-") : number(sum / static_cast<double>(values.size()));
      };
      std::vector<double> idle;
      for (size_t i = 0; i < kind.busy.size(); ++i) {
        idle.push_back(kind.device[i] - kind.busy[i]);
      }
      line("{:<22} {:>7} {:>11} {:>11} {:>11} {:>11} {:>11} {:>11}", name,
           std::max(kind.host.size(), kind.device.size()), mean(kind.host),
           kind.host.empty() ? "-" : number(percentile(kind.host, 0.9)), mean(kind.device),
           mean(idle), mean(kind.gap), kind.gap.empty() ? "-" : number(percentile(kind.gap, 0.9)));
    }
  }

  void longest(const std::vector<TraceEvent>& list, const char* what) {
    struct Row {
      double total = 0;
      int64_t count = 0;
    };
    std::map<std::string, Row> rows;
    double all = 0;
    for (const TraceEvent& event : list) {
      Row& row = rows[short_name(e_.names[event.name])];
      row.total += event.duration;
      ++row.count;
      all += event.duration;
    }
    std::vector<std::pair<std::string, Row>> sorted(rows.begin(), rows.end());
    std::ranges::sort(sorted, std::greater(), [](const auto& row) { return row.second.total; });
    line("\n{:>10} {:>6} {:>9} {:>10}  {}", "total ms", "%", "count", "mean us", what);
    for (size_t i = 0; i < std::min(sorted.size(), num_rows_); ++i) {
      const auto& [name, row] = sorted[i];
      line("{:>10.2f} {:>6.1f} {:>9} {:>10.2f}  {}", row.total * 1e-3, 100 * row.total / all,
           row.count, row.total / static_cast<double>(row.count), name);
    }
  }

  TraceEvents e_;
  size_t num_rows_;
  std::string text_;
};

bool is_trace(const fs::path& path) {
  const std::string name = path.filename().string();
  return !name.starts_with('.') && (name.ends_with(".json.gz") || name.ends_with(".json"));
}

}  // namespace

Result<std::vector<std::string>> find_traces(const std::string& path) {
  std::error_code failed;
  if (!fs::is_directory(path, failed)) {
    if (!fs::exists(path, failed)) {
      return make_error(ErrorCode::kNotFound, "{}: no such file or folder", path);
    }
    return std::vector<std::string>{path};
  }
  std::vector<std::string> found;
  for (fs::recursive_directory_iterator it(path, failed), end; !failed && it != end;
       it.increment(failed)) {
    if (it->is_regular_file(failed) && is_trace(it->path())) {
      found.push_back(it->path().string());
    }
  }
  if (failed) {
    return make_error(ErrorCode::kUnavailable, "{}: {}", path, failed.message());
  }
  if (found.empty()) {
    return make_error(ErrorCode::kNotFound, "{}: no traces (*.json, *.json.gz) below it", path);
  }
  std::ranges::sort(found);
  return found;
}

std::string summarize_trace(TraceEvents events, int num_rows) {
  return Summary(std::move(events), static_cast<size_t>(num_rows)).text();
}

}  // namespace atom
