// Leveled log lines to stderr. Arguments are formatted as in format.h and control characters in
// them are escaped, so a log line is always one line. Thread-safe.
#pragma once

#include "atom/core/format.h"

namespace atom {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

void set_log_level(LogLevel level);
LogLevel log_level();
void vlog(LogLevel level, fmt::string_view text, fmt::format_args args);

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
