#include "atom/benchmark/result_file.h"

#include <fstream>

namespace atom {

Status write_result_file(const std::filesystem::path& path, const std::string& json) {
  const std::filesystem::path raw = path.string() + ".tmp";
  std::error_code error;
  {
    std::ofstream file(raw, std::ios::binary | std::ios::trunc);
    file << json << "\n";
    file.close();
    if (!file) {
      std::filesystem::remove(raw, error);
      return make_error(ErrorCode::kUnavailable, "{}: cannot be written", path.string());
    }
  }
  std::filesystem::rename(raw, path, error);
  if (error) {
    std::error_code ignored;
    std::filesystem::remove(raw, ignored);
    return make_error(ErrorCode::kUnavailable, "{}: {}", path.string(), error.message());
  }
  return {};
}

}  // namespace atom
