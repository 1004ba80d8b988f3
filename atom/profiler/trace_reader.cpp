// Reads a trace event by event, whatever its size: only the members named here are kept.
#include <boost/json/basic_parser_impl.hpp>
#include <cstdlib>
#include <string>
#include <unordered_map>
#include <utility>

#include "atom/profiler/gzip_file.h"
#include "atom/profiler/trace_summary.h"

namespace atom {
namespace {

namespace json = boost::json;

constexpr size_t kMaxEvents = size_t{32} << 20;

// Boost.JSON's handler: {"traceEvents": [{...}, ...], "droppedEvents": n}. Depth 1 is the trace,
// 2 the list, 3 an event; what is deeper is skipped.
struct TraceHandler {
  static constexpr size_t max_object_size = SIZE_MAX;
  static constexpr size_t max_array_size = SIZE_MAX;
  static constexpr size_t max_key_size = SIZE_MAX;
  static constexpr size_t max_string_size = SIZE_MAX;
  using Code = boost::system::error_code;

  bool on_document_begin(Code&) { return true; }
  bool on_document_end(Code&) { return true; }
  bool on_object_begin(Code&) {
    ++depth;
    if (depth == 3 && in_events) {
      current = {};
    }
    return true;
  }
  bool on_object_end(size_t, Code& failed) {
    if (depth == 3 && in_events && !keep()) {
      failed = json::error::object_too_large;
      return false;
    }
    --depth;
    return true;
  }
  bool on_array_begin(Code&) {
    ++depth;
    in_events |= depth == 2 && key == "traceEvents";
    has_events |= in_events;
    return true;
  }
  bool on_array_end(size_t, Code&) {
    if (depth == 2) {
      in_events = false;
    }
    --depth;
    return true;
  }
  bool on_key_part(json::string_view part, size_t, Code&) {
    partial.append(part.data(), part.size());
    return true;
  }
  bool on_key(json::string_view part, size_t, Code&) {
    partial.append(part.data(), part.size());
    std::swap(depth == 3 && in_events ? member : key, partial);
    partial.clear();
    return true;
  }
  bool on_string_part(json::string_view part, size_t, Code&) {
    partial.append(part.data(), part.size());
    return true;
  }
  bool on_string(json::string_view part, size_t, Code&) {
    partial.append(part.data(), part.size());
    take_string();
    partial.clear();
    return true;
  }
  bool on_number_part(json::string_view, Code&) { return true; }
  bool on_int64(int64_t value, json::string_view, Code&) {
    take_number(static_cast<double>(value));
    return true;
  }
  bool on_uint64(uint64_t value, json::string_view, Code&) {
    take_number(static_cast<double>(value));
    return true;
  }
  bool on_double(double value, json::string_view, Code&) {
    take_number(value);
    return true;
  }
  bool on_bool(bool, Code&) { return true; }
  bool on_null(Code&) { return true; }
  bool on_comment_part(json::string_view, Code&) { return true; }
  bool on_comment(json::string_view, Code&) { return true; }

  void take_string() {
    if (depth != 3 || !in_events) {
      return;
    }
    if (member == "name") {
      current.name = partial;
    } else if (member == "cat") {
      current.category = partial;
    } else if (member == "ph") {
      current.phase = partial;
    }
  }

  void take_number(double value) {
    if (depth == 1 && key == "droppedEvents") {
      events.num_dropped = static_cast<int64_t>(value);
    }
    if (depth != 3 || !in_events) {
      return;
    }
    if (member == "ts") {
      current.begin = value;
    } else if (member == "dur") {
      current.duration = value;
    } else if (member == "tid") {
      current.thread = static_cast<int64_t>(value);
    }
  }

  std::vector<TraceEvent>* list_of(const std::string& category) {
    if (category == "kernel" || category == "gpu_memcpy" || category == "gpu_memset") {
      return &events.device;
    }
    if (category == "user_annotation") return &events.annotations;
    if (category == "gpu_user_annotation") return &events.device_annotations;
    return category == "cpu_op" ? &events.ops : nullptr;
  }

  bool keep() {
    std::vector<TraceEvent>* list = current.phase == "X" ? list_of(current.category) : nullptr;
    if (list == nullptr) {
      return true;
    }
    const auto [known, is_new] =
        names.try_emplace(current.name, static_cast<uint32_t>(events.names.size()));
    if (is_new) {
      events.names.push_back(current.name);
    }
    list->push_back({.name = known->second,
                     .begin = current.begin,
                     .duration = current.duration,
                     .thread = current.thread});
    return ++num_events <= kMaxEvents;
  }

  struct Current {
    std::string name, category, phase;
    double begin = 0, duration = 0;
    int64_t thread = 0;
  };

  TraceEvents events;
  std::unordered_map<std::string, uint32_t> names;
  Current current;
  std::string key, member, partial;
  size_t num_events = 0;
  int depth = 0;
  bool in_events = false;
  bool has_events = false;
};

}  // namespace

Result<TraceEvents> read_trace(const std::string& path) {
  json::basic_parser<TraceHandler> parser(json::parse_options{});
  const auto refuse = [&](const boost::system::error_code& failed) {
    return make_error(ErrorCode::kDataLoss, "{}: not a trace: {}", path, failed.message());
  };
  boost::system::error_code failed;
  ATOM_RETURN_IF_ERROR(read_gzip(path, [&](std::string_view piece) -> Status {
    const size_t used = parser.write_some(true, piece.data(), piece.size(), failed);
    if (!failed && used < piece.size() &&
        piece.find_first_not_of(" \t\r\n", used) != std::string_view::npos) {
      failed = json::error::extra_data;
    }
    return failed ? Status(refuse(failed)) : Status();
  }));
  if (!parser.done()) {
    parser.write_some(false, "", 0, failed);
  }
  if (failed) {
    return refuse(failed);
  }
  if (!parser.handler().has_events) {
    return make_error(ErrorCode::kDataLoss, "{}: not a trace: it has no list traceEvents", path);
  }
  return std::move(parser.handler().events);
}

}  // namespace atom
