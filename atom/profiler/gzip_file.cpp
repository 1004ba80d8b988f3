#include "atom/profiler/gzip_file.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <thread>
#include <utility>

namespace atom {
namespace {

constexpr size_t kBlockBytes = size_t{1} << 20;
constexpr size_t kDictionaryBytes = size_t{32} << 10;  // what deflate looks back on
constexpr unsigned kMaxThreads = 8;
constexpr int kLevel = 3;  // traces shrink 12 to 20 times; 6 takes twice as long for a tenth less
constexpr size_t kReadBytes = size_t{256} << 10;

std::unexpected<Error> file_error(const std::string& path, const char* doing) {
  return make_error(ErrorCode::kUnavailable, "{}: cannot {}: {}", path, doing,
                    std::strerror(errno));
}

void append_little_endian(std::string& out, uint32_t value) {
  for (int shift = 0; shift < 32; shift += 8) {
    out += static_cast<char>((value >> shift) & 0xff);
  }
}

}  // namespace

GzipFile::GzipFile(std::string path, std::string partial, int file)
    : path_(std::move(path)),
      partial_(std::move(partial)),
      file_(file),
      max_blocks_(std::clamp(std::thread::hardware_concurrency(), 1U, kMaxThreads)) {}

Result<std::unique_ptr<GzipFile>> GzipFile::create(const std::string& path) {
  const std::filesystem::path wanted(path);
  const std::string partial =
      (wanted.parent_path() / ("." + wanted.filename().string() + ".partial")).string();
  const int file = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (file < 0) {
    return file_error(partial, "be created");
  }
  std::unique_ptr<GzipFile> result(new GzipFile(path, partial, file));
  // RFC 1952: magic, deflate, no flags, no time, no hints, Unix.
  ATOM_RETURN_IF_ERROR(result->write(std::string_view("\x1f\x8b\x08\0\0\0\0\0\0\x03", 10)));
  return result;
}

GzipFile::~GzipFile() {
  for (std::future<Block>& block : blocks_) {
    block.wait();
  }
  if (file_ >= 0) {
    ::close(file_);
    ::unlink(partial_.c_str());
  }
}

Status GzipFile::append(std::string_view text) {
  while (!text.empty()) {
    const size_t count = std::min(text.size(), kBlockBytes - text_.size());
    text_.append(text.substr(0, count));
    text.remove_prefix(count);
    if (text_.size() == kBlockBytes) {
      ATOM_RETURN_IF_ERROR(send(false));
    }
  }
  return {};
}

Status GzipFile::finish() {
  ATOM_RETURN_IF_ERROR(send(true));
  while (!blocks_.empty()) {
    ATOM_RETURN_IF_ERROR(write_oldest());
  }
  std::string trailer;
  append_little_endian(trailer, crc_);
  append_little_endian(trailer, static_cast<uint32_t>(text_size_));
  ATOM_RETURN_IF_ERROR(write(trailer));
  const int closed = ::close(std::exchange(file_, -1));
  if (closed != 0 || std::rename(partial_.c_str(), path_.c_str()) != 0) {
    const auto error = file_error(path_, "be written");
    ::unlink(partial_.c_str());
    return error;
  }
  return {};
}

GzipFile::Block GzipFile::compress(const std::string& text, const std::string& dictionary,
                                   bool is_last) {
  z_stream stream{};
  // Negative window bits: bare deflate, for this file's own header and trailer.
  deflateInit2(&stream, kLevel, Z_DEFLATED, -15, 9, Z_DEFAULT_STRATEGY);
  deflateSetDictionary(&stream, reinterpret_cast<const Bytef*>(dictionary.data()),
                       static_cast<uInt>(dictionary.size()));
  Block block;
  block.bytes.resize(deflateBound(&stream, static_cast<uLong>(text.size())) + 16);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(block.bytes.data());
  stream.avail_out = static_cast<uInt>(block.bytes.size());
  deflate(&stream, is_last ? Z_FINISH : Z_SYNC_FLUSH);
  block.bytes.resize(block.bytes.size() - stream.avail_out);
  deflateEnd(&stream);
  block.crc = static_cast<uint32_t>(
      crc32(0, reinterpret_cast<const Bytef*>(text.data()), static_cast<uInt>(text.size())));
  block.text_size = text.size();
  return block;
}

Status GzipFile::send(bool is_last) {
  if (blocks_.size() >= max_blocks_) {
    ATOM_RETURN_IF_ERROR(write_oldest());
  }
  std::string text = std::exchange(text_, {});
  std::string dictionary = std::exchange(
      dictionary_, text.substr(text.size() - std::min(text.size(), kDictionaryBytes)));
  blocks_.push_back(
      std::async(std::launch::async, [text = std::move(text), dictionary = std::move(dictionary),
                                      is_last] { return compress(text, dictionary, is_last); }));
  return {};
}

Status GzipFile::write_oldest() {
  const Block block = blocks_.front().get();
  blocks_.pop_front();
  crc_ =
      static_cast<uint32_t>(crc32_combine(crc_, block.crc, static_cast<z_off_t>(block.text_size)));
  text_size_ += block.text_size;
  return write(block.bytes);
}

Status GzipFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(file_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      return file_error(path_, "be written");
    }
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  return {};
}

namespace {

// Inflates the members of a gzip file as they come.
class Inflater {
 public:
  Inflater() { inflateInit2(&stream_, 15 + 16); }  // 16: gzip
  ~Inflater() { inflateEnd(&stream_); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  // What is wrong with the file, or nullptr.
  const char* inflate_piece(std::string_view piece, std::string& text) {
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(piece.data()));
    stream_.avail_in = static_cast<uInt>(piece.size());
    while (stream_.avail_in > 0) {
      if (ended_) {
        inflateReset(&stream_);
      }
      const size_t size = text.size();
      text.resize(size + kReadBytes);
      stream_.next_out = reinterpret_cast<Bytef*>(text.data() + size);
      stream_.avail_out = kReadBytes;
      const int code = inflate(&stream_, Z_NO_FLUSH);
      text.resize(text.size() - stream_.avail_out);
      if (code != Z_OK && code != Z_STREAM_END) {
        return stream_.msg != nullptr ? stream_.msg : "not gzip";
      }
      ended_ = code == Z_STREAM_END;
    }
    return nullptr;
  }
  bool ended() const { return ended_; }

 private:
  z_stream stream_{};
  bool ended_ = false;
};

}  // namespace

Status read_gzip(const std::string& path, const std::function<Status(std::string_view)>& take) {
  std::error_code none;
  if (std::filesystem::is_directory(path, none)) {
    return make_error(ErrorCode::kInvalidArgument, "{}: a directory", path);
  }
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rbe"), std::fclose);
  if (!file) {
    return make_error(ErrorCode::kNotFound, "{}: {}", path, std::strerror(errno));
  }
  std::string piece(kReadBytes, '\0');
  std::string text;
  std::optional<Inflater> inflater;
  for (bool is_first = true;; is_first = false) {
    const size_t count = std::fread(piece.data(), 1, piece.size(), file.get());
    if (count == 0) {
      break;
    }
    const std::string_view bytes(piece.data(), count);
    if (is_first && bytes.starts_with("\x1f\x8b")) {
      inflater.emplace();
    }
    text.clear();
    if (const char* problem = inflater ? inflater->inflate_piece(bytes, text) : nullptr) {
      return make_error(ErrorCode::kDataLoss, "{}: damaged: {}", path, problem);
    }
    ATOM_RETURN_IF_ERROR(take(inflater ? std::string_view(text) : bytes));
  }
  if (std::ferror(file.get()) != 0) {
    return file_error(path, "be read");
  }
  if (inflater && !inflater->ended()) {
    return make_error(ErrorCode::kDataLoss, "{}: damaged: it ends too early", path);
  }
  return {};
}

}  // namespace atom
