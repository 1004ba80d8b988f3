// MappedFile: a regular file mapped read-only. Opening never blocks (FIFOs, devices and directories
// are refused before a byte is read) and allocates nothing that depends on the file. Symbolic links
// are followed: the Hugging Face cache is made of them. A file that is cut short while mapped makes
// the kernel send SIGBUS; install_fault_message() turns that into one line that names the file and
// exit status 1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "atom/core/error.h"

namespace atom {

class MappedFile {
 public:
  static Result<std::shared_ptr<const MappedFile>> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, static_cast<size_t>(size_)}; }
  const std::filesystem::path& path() const { return path_; }

  // Hints; any range inside bytes(). release() drops whole pages inside the range from this process
  // only, the page cache keeps them.
  void prefetch(const void* data, int64_t nbytes) const;
  void release(const void* data, int64_t nbytes) const;

  // Error when the file's size or modification time is no longer what it was at open().
  Status verify_unchanged() const;

 private:
  MappedFile() = default;

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  int64_t size_ = 0;
  int fd_ = -1;
  int64_t modified_ns_ = 0;
  int slot_ = -1;  // in the table of install_fault_message()
};

// A whole small file. Same rules as MappedFile::open; refuses more than `max_bytes`.
Result<std::string> read_small_file(const std::filesystem::path& path, int64_t max_bytes);

// Installs a SIGBUS handler for the process: a fault inside a mapped file ends it with one line and
// status 1; any other SIGBUS keeps its default action. Called once by the program's main.
void install_fault_message();

}  // namespace atom
