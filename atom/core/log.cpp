#include "atom/core/log.h"

#include <poll.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <ctime>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

#include "atom/core/printable.h"

namespace atom {
namespace {

constexpr size_t kMaxQueued = 1 << 20;
// A pipe that poll() calls writable takes this much without blocking (PIPE_BUF).
constexpr size_t kChunk = 4096;
constexpr int kPollMs = 100;
constexpr std::chrono::milliseconds kFlushTime{1000};

std::atomic<LogLevel> current_level{LogLevel::kInfo};
std::atomic<LogFormat> current_format{LogFormat::kText};
std::atomic<int64_t> num_dropped{0};

struct LevelName {
  const char* text;
  const char* json;
};
LevelName level_name(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return {"DEBUG", "debug"};
    case LogLevel::kInfo:
      return {"INFO", "info"};
    case LogLevel::kWarning:
      return {"WARNING", "warning"};
    default:
      return {"ERROR", "error"};
  }
}

void append_quoted(std::string& out, std::string_view text) {
  out += '"';
  while (!text.empty()) {
    const size_t size = utf8_size(text);
    const auto c = static_cast<unsigned char>(text[0]);
    if (size == 0) {
      out += "\\ufffd";
    } else if (c < 0x20 || c == 0x7f) {
      out += str_format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      if (c == '"' || c == '\\') out += '\\';
      out.append(text.substr(0, size));
    }
    text.remove_prefix(std::max<size_t>(size, 1));
  }
  out += '"';
}

bool is_plain(std::string_view text) {  // needs no quotes in `name=value`
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return c > 0x20 && c < 0x7f && c != '"' && c != '=' && c != '\\';
  });
}

void append_field(std::string& out, const LogField& field, LogFormat format) {
  if (format == LogFormat::kJson) {
    out += ",\"";
    out += field.name;
    out += "\":";
  } else {
    out += ' ';
    out += field.name;
    out += '=';
  }
  if (const auto* text = std::get_if<std::string_view>(&field.value)) {
    if (format == LogFormat::kText && is_plain(*text)) {
      out += *text;
    } else {
      append_quoted(out, *text);
    }
  } else if (const auto* number = std::get_if<int64_t>(&field.value)) {
    out += std::to_string(*number);
  } else {
    out += str_format("{:.3f}", std::get<double>(field.value));
  }
}

// Up to and including what comes before the message.
std::string begin_line(LogLevel level, LogFormat format) {
  timeval now{};
  gettimeofday(&now, nullptr);
  tm parts{};
  const auto ms = static_cast<int64_t>(now.tv_usec / 1000);
  if (format == LogFormat::kJson) {
    gmtime_r(&now.tv_sec, &parts);
    return str_format(
        R"({{"time":"{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z","level":"{}","message":)",
        parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min,
        parts.tm_sec, ms, level_name(level).json);
  }
  localtime_r(&now.tv_sec, &parts);
  return str_format("{} {:02}-{:02} {:02}:{:02}:{:02}.{:03} ", level_name(level).text,
                    parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, ms);
}

}  // namespace

struct LogWriter::Queue {
  Queue() {
    // Signals are for the threads that wait for them.
    sigset_t all{};
    sigset_t previous{};
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &previous);
    thread = std::thread([this] { run(); });
    pthread_sigmask(SIG_SETMASK, &previous, nullptr);
  }
  ~Queue() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
      give_up = std::chrono::steady_clock::now() + kFlushTime;
    }
    wake.notify_one();
    thread.join();
  }

  void push(std::string_view line) {
    bool was_empty = false;
    {
      const std::lock_guard lock(mutex);
      if (pending.size() + line.size() > kMaxQueued) {
        num_dropped.fetch_add(1, std::memory_order_relaxed);
        ++unreported;
        return;
      }
      was_empty = pending.empty();
      pending += line;
    }
    if (was_empty) wake.notify_one();
  }

  void run() {
    std::string batch;
    while (true) {
      int64_t lost = 0;
      {
        std::unique_lock lock(mutex);
        wake.wait(lock, [this] { return stopping || !pending.empty(); });
        if (pending.empty()) return;
        batch.clear();
        batch.swap(pending);
        lost = std::exchange(unreported, 0);
      }
      if (!write_all(batch)) return;
      if (lost > 0) log_warning("{} log lines were dropped: their reader is too slow", lost);
    }
  }

  bool write_all(std::string_view text) {  // false: no time is left
    while (!text.empty()) {
      pollfd fd{.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
      if (poll(&fd, 1, kPollMs) == 0) {
        const std::lock_guard lock(mutex);
        if (stopping && std::chrono::steady_clock::now() > give_up) return false;
        continue;
      }
      const ssize_t written = write(STDERR_FILENO, text.data(), std::min(text.size(), kChunk));
      if (written < 0 && errno != EINTR && errno != EAGAIN) {  // nobody reads: nothing to say
        num_dropped.fetch_add(std::count(text.begin(), text.end(), '\n'),
                              std::memory_order_relaxed);
        return true;
      }
      text.remove_prefix(static_cast<size_t>(std::max<ssize_t>(written, 0)));
    }
    return true;
  }

  std::mutex mutex;
  std::condition_variable wake;
  std::string pending;
  int64_t unreported = 0;
  bool stopping = false;
  std::chrono::steady_clock::time_point give_up;
  std::thread thread;
};

namespace {

std::mutex queue_mutex;  // guards which queue there is, not what is in it
LogWriter::Queue* current_queue = nullptr;

void emit(std::string_view line) {
  {
    const std::lock_guard lock(queue_mutex);
    if (current_queue != nullptr) return current_queue->push(line);
  }
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace

LogWriter::LogWriter() : queue_(std::make_unique<Queue>()) {
  const std::lock_guard lock(queue_mutex);
  current_queue = queue_.get();
}

LogWriter::~LogWriter() {
  const std::lock_guard lock(queue_mutex);
  current_queue = nullptr;
}

int64_t num_dropped_log_lines() { return num_dropped.load(std::memory_order_relaxed); }
void set_log_level(LogLevel level) { current_level.store(level, std::memory_order_relaxed); }
LogLevel log_level() { return current_level.load(std::memory_order_relaxed); }
void set_log_format(LogFormat format) { current_format.store(format, std::memory_order_relaxed); }

void vlog(LogLevel level, fmt::string_view text, fmt::format_args args) try {
  const LogFormat format = current_format.load(std::memory_order_relaxed);
  std::string line = begin_line(level, format);
  if (format == LogFormat::kJson) {
    append_quoted(line, vformat_str(text, args));
    line += "}\n";
  } else {
    line += printable(vformat_str(text, args), std::string::npos);
    line += '\n';
  }
  emit(line);
} catch (const std::exception&) {  // no memory for the line: who logs is in trouble enough
  num_dropped.fetch_add(1, std::memory_order_relaxed);
}

void log_event(LogLevel level, std::string_view event, std::span<const LogField> fields) try {
  if (log_level() > level) return;
  const LogFormat format = current_format.load(std::memory_order_relaxed);
  std::string line = begin_line(level, format);
  if (format == LogFormat::kJson) {
    append_quoted(line, event);
  } else {
    line += event;
  }
  for (const LogField& field : fields) append_field(line, field, format);
  line += format == LogFormat::kJson ? "}\n" : "\n";
  emit(line);
} catch (const std::exception&) {
  num_dropped.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace atom
