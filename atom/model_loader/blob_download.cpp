#include "atom/model_loader/blob_download.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "atom/core/log.h"
#include "atom/model_loader/digest.h"
#include "atom/model_loader/text.h"

namespace atom {
namespace {

constexpr std::string_view kEraseLine = "\r\x1b[K";

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

bool is_hex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

Status file_error(const std::filesystem::path& path, int error_number) {
  const bool full = error_number == ENOSPC || error_number == EDQUOT;
  return make_error(full ? ErrorCode::kResourceExhausted : ErrorCode::kInvalidArgument, "{}: {}{}",
                    printable(path), std::strerror(error_number),
                    full ? " (free some space and start again: the download resumes)" : "");
}

class FileLock {
 public:
  static Result<std::unique_ptr<FileLock>> acquire(const std::filesystem::path& path,
                                                   const std::string& name) {
    std::unique_ptr<FileLock> lock(new FileLock());
    lock->fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (lock->fd_ < 0) return std::unexpected(file_error(path, errno).error());
    if (flock(lock->fd_, LOCK_EX | LOCK_NB) == 0) return lock;
    log_info("{}: another process downloads it, waiting", printable(name));
    while (flock(lock->fd_, LOCK_EX) != 0) {
      if (errno != EINTR) return std::unexpected(file_error(path, errno).error());
    }
    return lock;
  }
  ~FileLock() {
    if (fd_ >= 0) close(fd_);
  }

 private:
  int fd_ = -1;
};

// The growing PATH.incomplete with the digest of what it holds.
class PartialFile {
 public:
  PartialFile(const BlobRequest& blob, DownloadProgress& progress)
      : blob_(blob), progress_(progress), path_(blob.path.string() + ".incomplete") {}
  ~PartialFile() {
    if (fd_ >= 0) close(fd_);
  }

  int64_t size() const { return size_; }

  Status open_and_resume() {
    fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd_ < 0) return file_error(path_, errno);
    ATOM_RETURN_IF_ERROR(restart());
    const int64_t present = lseek(fd_, 0, SEEK_END);
    if (present > blob_.size) return truncate();
    std::vector<std::byte> buffer(1 << 20);
    while (size_ < present) {
      const ssize_t count = pread(fd_, buffer.data(), buffer.size(), size_);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return file_error(path_, count < 0 ? errno : EIO);
      digest_->update(std::span(buffer).first(static_cast<size_t>(count)));
      size_ += count;
    }
    progress_.advance(size_);
    return {};
  }

  Status truncate() {
    progress_.advance(-size_);
    if (ftruncate(fd_, 0) != 0) return file_error(path_, errno);
    return restart();
  }

  Status append(std::span<const std::byte> data) {
    if (static_cast<int64_t>(data.size()) > blob_.size - size_) {
      return make_error(
          ErrorCode::kDataLoss,
          "the server sends more than it announced (found over {} bytes, expected {})", blob_.size,
          blob_.size);
    }
    for (size_t used = 0; used < data.size();) {
      const ssize_t count =
          pwrite(fd_, data.data() + used, data.size() - used, size_ + static_cast<int64_t>(used));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return file_error(path_, errno);
      used += static_cast<size_t>(count);
    }
    digest_->update(data);
    size_ += static_cast<int64_t>(data.size());
    progress_.advance(static_cast<int64_t>(data.size()));
    return {};
  }

  // Checks the digest of the whole file; call once.
  bool matches() { return digest_->finish() == blob_.etag || !checked(); }

  Status publish() {
    if (fsync(fd_) != 0) return file_error(path_, errno);
    if (rename(path_.c_str(), blob_.path.c_str()) != 0) return file_error(blob_.path, errno);
    return {};
  }

  // A line of the log, with the progress bar out of its way.
  void warn(const std::string& message) {
    progress_.clear();
    log_warning("{}: {}", printable(blob_.name), message);
  }

  void remove() { unlink(path_.c_str()); }

 private:
  bool is_sha256() const { return blob_.etag.size() == 64 && is_hex(blob_.etag); }
  bool checked() const { return is_sha256() || (blob_.etag.size() == 40 && is_hex(blob_.etag)); }

  Status restart() {
    size_ = 0;
    digest_ = std::make_unique<Digest>(is_sha256() ? Digest::Kind::kSha256 : Digest::Kind::kSha1);
    if (!is_sha256()) {  // the name of a git object covers this header
      const std::string header = str_format("blob {}", blob_.size) + '\0';
      digest_->update(std::as_bytes(std::span(header)));
    }
    return {};
  }

  const BlobRequest& blob_;
  DownloadProgress& progress_;
  std::filesystem::path path_;
  int fd_ = -1;
  int64_t size_ = 0;
  std::unique_ptr<Digest> digest_;
};

// Does the 206 answer start where we asked?
bool continues_at(const HttpResponse& response, int64_t begin, int64_t total) {
  const std::string range = response.header("content-range");
  return range.starts_with(str_format("bytes {}-", begin)) &&
         (range.ends_with(str_format("/{}", total)) || range.ends_with("/*"));
}

// One GET; what arrives is in `file` even when it ends in an error.
Status fetch_rest(HttpClient& http, const BlobRequest& blob, PartialFile& file) {
  const int64_t begin = file.size();
  bool first = true;
  HttpRequest request{.url = blob.url,
                      .bearer_token = blob.bearer_token,
                      .follow_redirects = true,
                      .range_begin = begin};
  request.max_body = 64 << 10;
  request.sink = [&](const HttpResponse& response, std::span<const std::byte> data) -> Status {
    if (first && begin > 0 &&
        !(response.status == 206 && continues_at(response, begin, blob.size))) {
      ATOM_RETURN_IF_ERROR(file.truncate());
      if (response.status == 206)
        return make_error(ErrorCode::kUnavailable, "the server answers with another range");
    }
    first = false;
    return file.append(data);
  };
  ATOM_ASSIGN_OR_RETURN(const HttpResponse response, http.send(request));
  if (response.status / 100 == 2) return {};
  if (response.status == 416) {
    ATOM_RETURN_IF_ERROR(file.truncate());
    return make_error(ErrorCode::kUnavailable, "the server refuses the range");
  }
  return make_error(
      is_retryable_status(response.status) ? ErrorCode::kUnavailable : ErrorCode::kNotFound,
      "HTTP status {}", response.status);
}

// Until the file has all its bytes.
Status fetch_all(HttpClient& http, const BlobRequest& blob, PartialFile& file) {
  int failures = 0;
  for (int total = 0; file.size() < blob.size;) {
    const int64_t before = file.size();
    Status status = fetch_rest(http, blob, file);
    if (file.size() >= blob.size) break;
    if (status) {
      status = make_error(ErrorCode::kUnavailable,
                          "the transfer ended early (found {} bytes, expected {})", file.size(),
                          blob.size);
    }
    if (status.error().code != ErrorCode::kUnavailable) return status;
    failures = file.size() > before ? 1 : failures + 1;
    if (failures >= kMaxTries || ++total >= 1000) return status;
    file.warn(status.error().message + "; trying again");
    wait_before_retry(failures);
  }
  return {};
}

Status download_locked(HttpClient& http, const BlobRequest& blob, DownloadProgress& progress) {
  PartialFile file(blob, progress);
  ATOM_RETURN_IF_ERROR(file.open_and_resume());
  for (bool resumed = file.size() > 0;; resumed = false) {
    Status status = fetch_all(http, blob, file);
    if (!status) {
      if (status.error().code == ErrorCode::kDataLoss) file.remove();
      return status;
    }
    if (file.matches()) return file.publish();
    if (!resumed) break;
    file.warn("what an earlier download left does not fit, starting over");
    ATOM_RETURN_IF_ERROR(file.truncate());
  }
  file.remove();
  return make_error(ErrorCode::kDataLoss,
                    "checksum mismatch after download (expected {}); nothing was kept", blob.etag);
}

}  // namespace

bool is_retryable_status(int status) { return status >= 500 || status == 429 || status == 408; }

void wait_before_retry(int failures, const std::string& retry_after) {
  int64_t milliseconds = 250 << std::min(failures - 1, 5);
  char* end = nullptr;
  const int64_t asked = std::strtoll(retry_after.c_str(), &end, 10);
  if (!retry_after.empty() && *end == '\0' && asked > 0)
    milliseconds = std::min<int64_t>(asked, 60) * 1000;
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

Status download_blob(HttpClient& http, const BlobRequest& blob, DownloadProgress& progress) {
  progress.start_file(blob.name);
  auto lock = FileLock::acquire(blob.lock, blob.name);
  if (!lock) return std::unexpected(std::move(lock.error()));
  std::error_code error;
  if (std::filesystem::file_size(blob.path, error) == static_cast<uintmax_t>(blob.size) && !error) {
    progress.advance(blob.size);  // another process was faster
    return {};
  }
  Status status = download_locked(http, blob, progress);
  if (!status) status.error().message = printable(blob.name) + ": " + status.error().message;
  return status;
}

DownloadProgress::DownloadProgress()
    : terminal_(isatty(STDERR_FILENO) == 1), started_ns_(now_ns()) {}

void DownloadProgress::begin(int64_t total_bytes) {
  total_ = total_bytes;
  done_ = fresh_ = 0;
  started_ns_ = now_ns();
}

void DownloadProgress::start_file(std::string name) {
  file_ = std::move(name);
  draw();
}

void DownloadProgress::advance(int64_t bytes) {
  done_ += bytes;
  fresh_ += std::max<int64_t>(bytes, 0);
  if (now_ns() - drawn_ns_ > 100'000'000) draw();
}

// One line, cut to the terminal's width: a line that wraps cannot be drawn over.
void DownloadProgress::draw() {
  if (!terminal_ || total_ <= 0) return;
  drawn_ns_ = now_ns();
  const double seconds = std::max(1e-3, static_cast<double>(drawn_ns_ - started_ns_) * 1e-9);
  const double rate = static_cast<double>(fresh_) / seconds;
  const int percent = static_cast<int>(std::clamp<int64_t>(done_ * 100 / total_, 0, 100));
  const auto filled = static_cast<size_t>(percent / 5);
  std::string line = "[" + std::string(filled, '#') + std::string(20 - filled, '.') + "]";
  line += str_format(" {:3}%  {} / {}", percent, human_bytes(done_), human_bytes(total_));
  if (rate >= 1) {
    const double left = static_cast<double>(total_ - done_) / rate;
    line += str_format("  {}/s  {} s left", human_bytes(static_cast<int64_t>(rate)),
                       static_cast<int64_t>(left));
  }
  line += "  " + printable(file_, 60);
  winsize window{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1;
  line.resize(std::min<size_t>(line.size(), known ? window.ws_col - 1 : 79));
  line.insert(0, kEraseLine);
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

void DownloadProgress::clear() {
  if (!terminal_ || drawn_ns_ == 0) return;
  [[maybe_unused]] const ssize_t written =
      write(STDERR_FILENO, kEraseLine.data(), kEraseLine.size());
}

}  // namespace atom
