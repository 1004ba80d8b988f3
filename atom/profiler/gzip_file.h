// GzipFile: a gzip file written in one go by several threads: blocks are compressed side by side
// and put together as one member, which every reader takes. Nothing is at `path` before finish().
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <string_view>

#include "atom/core/error.h"

namespace atom {

// Owner: who writes the file; one thread.
class GzipFile {
 public:
  // Creates a hidden file beside `path`, in a directory that exists.
  static Result<std::unique_ptr<GzipFile>> create(const std::string& path);
  // Without finish(): removes what was written.
  ~GzipFile();
  GzipFile(const GzipFile&) = delete;
  GzipFile& operator=(const GzipFile&) = delete;

  Status append(std::string_view text);
  // Renames the whole file to `path`.
  Status finish();

 private:
  struct Block {
    std::string bytes;  // deflated
    uint32_t crc = 0;   // of the text
    size_t text_size = 0;
  };

  GzipFile(std::string path, std::string partial, int file);
  static Block compress(const std::string& text, const std::string& dictionary, bool is_last);
  Status send(bool is_last);
  Status write_oldest();
  Status write(std::string_view bytes);

  std::string path_;
  std::string partial_;
  int file_ = -1;
  std::string text_;        // of the block to come
  std::string dictionary_;  // the end of the block before
  std::deque<std::future<Block>> blocks_;
  size_t max_blocks_ = 1;
  uint32_t crc_ = 0;
  uint64_t text_size_ = 0;
};

// Calls take(piece) for the text of a gzip file, or of a plain one; stops at the first error.
Status read_gzip(const std::string& path, const std::function<Status(std::string_view)>& take);

}  // namespace atom
