#include "atom/model_loader/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "atom/model_loader/text.h"

namespace atom {
namespace {

uintptr_t page_size() {
  static const auto size =
      static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));  // 4 KiB on x86, up to 64 on others
  return size;
}

// Mapped ranges for the fault handler: fixed, so that a signal handler may read it. A checkpoint
// with more shards than slots only loses the file name in the message.
struct FaultSlot {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<const char*> name{nullptr};
};
std::array<FaultSlot, 1024> fault_slots;

int register_range(const void* data, int64_t size, const char* name) {
  for (size_t i = 0; i < fault_slots.size(); ++i) {
    uintptr_t expected = 0;
    const auto begin = reinterpret_cast<uintptr_t>(data);
    if (fault_slots[i].begin.compare_exchange_strong(expected, begin)) {
      fault_slots[i].name = name;
      fault_slots[i].end = begin + static_cast<uintptr_t>(size);
      return static_cast<int>(i);
    }
  }
  return -1;
}

void unregister_range(int slot) {
  if (slot < 0) return;
  fault_slots[static_cast<size_t>(slot)].end = 0;
  fault_slots[static_cast<size_t>(slot)].begin = 0;
}

void write_text(const char* text) {
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, std::strlen(text));
}

void on_bus_error(int signal_number, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const FaultSlot& slot : fault_slots) {
    if (address >= slot.begin && address < slot.end) {
      write_text("atom: ");
      write_text(slot.name);
      write_text(": the file was cut short, or its disk failed, while it was in use\n");
      _exit(1);
    }
  }
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

Error errno_error(const std::filesystem::path& path, int error_number) {
  const bool missing = error_number == ENOENT || error_number == ENOTDIR;
  return {.code = missing ? ErrorCode::kNotFound : ErrorCode::kInvalidArgument,
          .message = printable(path) + ": " + std::strerror(error_number),
          .param = {}};
}

struct OpenFile {
  int fd = -1;
  struct stat info {};
};

// O_NONBLOCK keeps a FIFO without writer from blocking; the type is checked before anything is
// read.
Result<OpenFile> open_regular(const std::filesystem::path& path) {
  OpenFile file;
  // Refused by type first: merely opening a device may act on it (a tape rewinds).
  if (stat(path.c_str(), &file.info) != 0) return std::unexpected(errno_error(path, errno));
  if (S_ISREG(file.info.st_mode)) {
    file.fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file.fd < 0) return std::unexpected(errno_error(path, errno));
    if (fstat(file.fd, &file.info) != 0) {
      const int error_number = errno;
      close(file.fd);
      return std::unexpected(errno_error(path, error_number));
    }
    if (S_ISREG(file.info.st_mode)) return file;
    close(file.fd);
  }
  const mode_t mode = file.info.st_mode;
  const char* kind = S_ISDIR(mode)    ? "a directory"
                     : S_ISFIFO(mode) ? "a FIFO"
                     : S_ISSOCK(mode) ? "a socket"
                                      : "a device";
  return make_error(ErrorCode::kInvalidArgument, "{}: not a regular file (found {})",
                    printable(path), kind);
}

int64_t modified_ns(const struct stat& info) {
  return int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
}

}  // namespace

Result<std::shared_ptr<const MappedFile>> MappedFile::open(const std::filesystem::path& path) {
  ATOM_ASSIGN_OR_RETURN(const OpenFile file, open_regular(path));
  std::shared_ptr<MappedFile> mapped(new MappedFile());
  mapped->path_ = path;
  mapped->fd_ = file.fd;
  mapped->modified_ns_ = modified_ns(file.info);
  if (file.info.st_size == 0) return mapped;
  void* data =
      mmap(nullptr, static_cast<size_t>(file.info.st_size), PROT_READ, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED) return std::unexpected(errno_error(path, errno));
  mapped->data_ = static_cast<const std::byte*>(data);
  mapped->size_ = file.info.st_size;
  mapped->slot_ = register_range(data, mapped->size_, mapped->path_.c_str());
  return mapped;
}

MappedFile::~MappedFile() {
  unregister_range(slot_);
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size_));
  if (fd_ >= 0) close(fd_);
}

void MappedFile::prefetch(const void* data, int64_t nbytes) const {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data) & ~(page_size() - 1);
  const uintptr_t end = reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(nbytes);
  if (nbytes > 0) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
}

void MappedFile::release(const void* data, int64_t nbytes) const {
  const uintptr_t page = page_size();
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) & ~(page - 1);
  const uintptr_t end =
      (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(nbytes)) & ~(page - 1);
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

Status MappedFile::verify_unchanged() const {
  struct stat info {};
  if (fstat(fd_, &info) != 0) return std::unexpected(errno_error(path_, errno));
  if (info.st_size != size_) {
    return make_error(ErrorCode::kDataLoss,
                      "{}: size changed while it was in use (found {} bytes, expected {})",
                      printable(path_), info.st_size, size_);
  }
  if (modified_ns(info) != modified_ns_) {
    return make_error(ErrorCode::kDataLoss, "{}: modified while it was in use", printable(path_));
  }
  return {};
}

Result<std::string> read_small_file(const std::filesystem::path& path, int64_t max_bytes) {
  ATOM_ASSIGN_OR_RETURN(const OpenFile file, open_regular(path));
  if (file.info.st_size > max_bytes) {
    close(file.fd);
    return make_error(ErrorCode::kInvalidArgument,
                      "{}: too large (found {} bytes, expected at most {})", printable(path),
                      file.info.st_size, max_bytes);
  }
  std::string text(static_cast<size_t>(file.info.st_size), '\0');
  size_t used = 0;
  int error_number = 0;
  while (used < text.size()) {
    const ssize_t count = read(file.fd, text.data() + used, text.size() - used);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) error_number = errno;
    if (count <= 0) break;
    used += static_cast<size_t>(count);
  }
  close(file.fd);
  if (error_number != 0) return std::unexpected(errno_error(path, error_number));
  text.resize(used);
  return text;
}

void install_fault_message() {
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace atom
