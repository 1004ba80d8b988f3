#include "atom/profiler/profiler.h"

#include <unistd.h>

#include <atomic>
#include <climits>
#include <filesystem>
#include <utility>

#include "atom/core/log.h"
#include "atom/core/trace.h"
#include "atom/profiler/gzip_file.h"

namespace atom {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNoDirectory =
    "no folder for traces: start with --torch-profiler-dir DIR or set ATOM_TORCH_PROFILER_DIR";

std::atomic<bool> process_captures{false};

std::string host_name() {
  char name[HOST_NAME_MAX + 1] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? name : "localhost";
}

// `below` inside `root`, by name alone: what is there may be a link to elsewhere, as root may be.
Result<fs::path> folder_below(const fs::path& root, const std::string& below) {
  if (below.empty()) {
    return root;
  }
  const fs::path absolute_root = fs::absolute(root).lexically_normal() / "";
  const fs::path wanted = (absolute_root / below).lexically_normal() / "";
  const auto [end, rest] = std::mismatch(absolute_root.begin(), std::prev(absolute_root.end()),
                                         wanted.begin(), wanted.end());
  if (below.find('\0') != std::string::npos || end != std::prev(absolute_root.end())) {
    return std::unexpected(Error{.code = ErrorCode::kInvalidArgument,
                                 .message = "output_dir: not a folder below that of the traces",
                                 .param = "output_dir"});
  }
  return wanted;
}

}  // namespace

void DeviceEvents::take(void* user, const DeviceActivity* activities, size_t count) {
  auto& self = *static_cast<DeviceEvents*>(user);
  const std::lock_guard lock(self.mutex_);
  try {
    self.pieces_.emplace_back(activities, activities + count);
    self.count_ += count;
  } catch (const std::bad_alloc&) {
    self.num_dropped_ += static_cast<int64_t>(count);
  }
  while (self.count_ > kMaxActivities) {
    self.count_ -= self.pieces_.front().size();
    self.num_dropped_ += static_cast<int64_t>(self.pieces_.front().size());
    self.pieces_.pop_front();
  }
}

std::vector<DeviceActivity> DeviceEvents::release() {
  const std::lock_guard lock(mutex_);
  std::vector<DeviceActivity> all;
  all.reserve(count_);
  for (std::vector<DeviceActivity>& piece : pieces_) {
    all.insert(all.end(), piece.begin(), piece.end());
    piece = {};
  }
  pieces_.clear();
  count_ = 0;
  num_dropped_ = 0;
  return all;
}

Profiler::Profiler(ProfilerConfig config, const DeviceTracer* tracer)
    : config_(std::move(config)), tracer_(tracer) {}

Profiler::~Profiler() {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kCapturing) {
    (void)end_capture();
    process_captures = false;
  }
}

Status Profiler::start(const std::string& output_dir) {
  const std::lock_guard lock(mutex_);
  if (config_.dir.empty()) {
    return make_error(ErrorCode::kInvalidArgument, "{}", kNoDirectory);
  }
  if (state_ != State::kIdle) {
    return make_error(ErrorCode::kInvalidArgument, "{}",
                      state_ == State::kCapturing ? "the profiler is already running"
                                                  : "the last trace is still being written");
  }
  ATOM_ASSIGN_OR_RETURN(const fs::path folder, folder_below(config_.dir, output_dir));
  const fs::path dir = folder / "rank_0";
  std::error_code failed;
  fs::create_directories(dir, failed);
  if (failed || ::access(dir.c_str(), W_OK) != 0) {
    return make_error(ErrorCode::kUnavailable, "{}: traces cannot be written here: {}",
                      dir.string(), failed ? failed.message() : "not writable");
  }
  if (process_captures.exchange(true)) {
    return make_error(ErrorCode::kInvalidArgument,
                      "the profiler of another engine of this process is running");
  }
  dir_ = dir.string();
  begin_ns_ = trace::now_ns();
  device_traced_ = false;
  if (tracer_ != nullptr) {
    const DeviceStatus refused = tracer_->start(DeviceEvents::take, &device_events_);
    device_traced_ = refused == nullptr;
    if (refused != nullptr) {
      log_warning("the trace will lack the device: {}", refused);
    }
  }
  trace::start({.detailed = config_.detailed});
  state_ = State::kCapturing;
  log_info("profiling; traces go to {}", dir_);
  return {};
}

TraceData Profiler::end_capture() {
  TraceData data{.begin_ns = begin_ns_, .threads = trace::stop(), .device = {}};
  data.end_ns = trace::now_ns();
  if (device_traced_) {
    int64_t dropped = 0;
    if (const DeviceStatus failed = tracer_->stop(&dropped)) {
      log_warning("the trace may lack what the device did last: {}", failed);
    }
    data.num_dropped_device = dropped + device_events_.num_dropped();
    data.device = device_events_.release();
    // What had not ended has no times.
    std::erase_if(data.device, [&](const DeviceActivity& activity) {
      return activity.begin_ns < data.begin_ns || activity.end_ns < activity.begin_ns;
    });
  }
  return data;
}

Result<std::vector<std::string>> Profiler::stop() {
  TraceData data;
  {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kCapturing) {
      return make_error(ErrorCode::kInvalidArgument, "{}",
                        state_ == State::kWriting ? "the last trace is still being written"
                                                  : "the profiler is not running");
    }
    data = end_capture();
    state_ = State::kWriting;
    process_captures = false;
  }
  Result<std::vector<std::string>> written = write(data);
  const std::lock_guard lock(mutex_);
  state_ = State::kIdle;
  return written;
}

Result<std::vector<std::string>> Profiler::write(const TraceData& data) const {
  const std::string path =
      str_format("{}/{}_{}.{}.pt.trace.json.gz", dir_, host_name(), ::getpid(), data.begin_ns);
  ATOM_RETURN_IF_ERROR(write_trace(data, path));
  int64_t dropped = data.num_dropped_device;
  for (const trace::ThreadEvents& thread : data.threads) {
    dropped += thread.num_dropped;
  }
  if (dropped > 0) {
    log_warning("the trace lacks {} events, the oldest: there was no room", dropped);
  }
  log_info("trace written: {}, {:.2f} s after the capture", path,
           static_cast<double>(trace::now_ns() - data.end_ns) * 1e-9);
  return std::vector<std::string>{path};
}

}  // namespace atom
