#include "atom/benchmark/result_file.h"

#include <cerrno>
#include <fstream>
#include <system_error>

namespace atom {
namespace {

namespace fs = std::filesystem;

Status write(const fs::path& path, const std::string& json, const fs::path& shown) {
  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << json << "\n";
  file.close();
  if (!file) {
    return make_error(ErrorCode::kUnavailable, "{}: cannot be written: {}", shown.string(),
                      std::generic_category().message(errno));
  }
  return {};
}

}  // namespace

Status write_result_file(const fs::path& path, const std::string& json) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    return write(path, json, path);  // a pipe or a device stays what it is
  }
  const fs::path target = fs::is_symlink(path, error) ? fs::canonical(path, error) : path;
  const fs::path raw = target.string() + ".tmp";
  Status written = write(raw, json, path);
  if (written) {
    fs::rename(raw, target, error);
    if (error) {
      written = make_error(ErrorCode::kUnavailable, "{}: {}", path.string(), error.message());
    }
  }
  if (!written) {
    fs::remove(raw, error);
  }
  return written;
}

}  // namespace atom
