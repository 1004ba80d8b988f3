#include "atom/model_loader/text.h"

#include <algorithm>
#include <array>

namespace atom {
namespace {

bool starts_with_ignoring_case(std::string_view text, std::string_view lower_prefix) {
  return text.size() >= lower_prefix.size() &&
         std::equal(
             lower_prefix.begin(), lower_prefix.end(), text.begin(), [](char want, char have) {
               return want ==
                      (have >= 'A' && have <= 'Z' ? static_cast<char>(have - 'A' + 'a') : have);
             });
}

}  // namespace

std::string printable(const std::filesystem::path& path) { return printable(path.native(), 4096); }

std::unexpected<Error> with_file(const std::filesystem::path& file, Error error) {
  error.message = printable(file) + ": " + error.message;
  return std::unexpected(std::move(error));
}

std::string shape_text(std::span<const int64_t> shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    out += str_format("{}{}", i == 0 ? "" : ", ", shape[i]);
  }
  return out + "]";
}

bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\\') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos;
}

std::string recognise_foreign_content(std::span<const std::byte> head) {
  std::string_view text(reinterpret_cast<const char*>(head.data()),
                        std::min<size_t>(head.size(), 512));
  if (text.starts_with("version https://git-lfs")) {
    return "this is a Git LFS pointer, not the file itself (run `git lfs pull`, or download it "
           "again)";
  }
  if (text.starts_with("PK\x03\x04") || text.starts_with("\x80\x02")) {
    return "this is a PyTorch pickle file; pickle formats are not loaded (convert it to "
           "safetensors)";
  }
  if (text.starts_with("GGUF")) return "this is a GGUF file (give it the extension .gguf)";
  if (text.starts_with("\x1f\x8b")) return "this is a gzip archive (unpack it first)";
  if (text.starts_with("\x28\xb5\x2f\xfd")) return "this is a zstd archive (unpack it first)";
  const size_t start = text.find_first_not_of(" \t\r\n");
  if (start == std::string_view::npos) return {};
  text.remove_prefix(start);
  if (starts_with_ignoring_case(text, "<!doctype html") ||
      starts_with_ignoring_case(text, "<html")) {
    return "this is an HTML page saved as a model file (download it again)";
  }
  if (text.starts_with("<?xml"))
    return "this is an XML page saved as a model file (download it again)";
  return {};
}

std::string human_bytes(int64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < kUnits.size()) {
    value /= 1000.0;
    ++unit;
  }
  return unit == 0 ? str_format("{} B", bytes)
                   : str_format("{:.{}f} {}", value, value < 9.95 ? 2 : 1, kUnits[unit]);
}

}  // namespace atom
