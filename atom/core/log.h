// Leveled log lines to stderr, as text or as JSON objects. Arguments are formatted as in format.h
// and control characters in them are escaped, so a log line is always one line. Thread-safe. Lines
// are written by the caller, unless a LogWriter is alive: then no caller ever waits for the reader.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <variant>

#include "atom/core/format.h"

namespace atom {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };
enum class LogFormat { kText, kJson };

void set_log_level(LogLevel level);
LogLevel log_level();
void set_log_format(LogFormat format);
void vlog(LogLevel level, fmt::string_view text, fmt::format_args args);

struct LogField {
  std::string_view name;                                  // an identifier
  std::variant<std::string_view, int64_t, double> value;  // double: three decimals
};
// One line with named values: `event a=1 b="two words"`, or members of the JSON object.
void log_event(LogLevel level, std::string_view event, std::span<const LogField> fields);

// While it lives, lines go through a queue of at most 1 MiB to a thread that writes them; what does
// not fit is dropped and counted. One at a time. The destructor waits for the reader a second at
// most.
class LogWriter {
 public:
  LogWriter();
  ~LogWriter();
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  struct Queue;

 private:
  std::unique_ptr<Queue> queue_;
};
int64_t num_dropped_log_lines();  // since start

template <class... Args>
void log_debug(fmt::format_string<Args...> text, Args&&... args) {
  if (log_level() <= LogLevel::kDebug) vlog(LogLevel::kDebug, text, fmt::make_format_args(args...));
}
template <class... Args>
void log_info(fmt::format_string<Args...> text, Args&&... args) {
  if (log_level() <= LogLevel::kInfo) vlog(LogLevel::kInfo, text, fmt::make_format_args(args...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> text, Args&&... args) {
  if (log_level() <= LogLevel::kWarning)
    vlog(LogLevel::kWarning, text, fmt::make_format_args(args...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> text, Args&&... args) {
  if (log_level() <= LogLevel::kError) vlog(LogLevel::kError, text, fmt::make_format_args(args...));
}

}  // namespace atom
