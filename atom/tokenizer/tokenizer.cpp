// Tokenizer::from_directory: finds the tokenizer files of a model directory and hands them to the
// loaders.
#include "atom/tokenizer/tokenizer.h"

#include <cstdio>
#include <memory>

#include "atom/core/printable.h"
#include "atom/tokenizer/loaders.h"
#include "atom/tokenizer/pipeline_tokenizer.h"

namespace atom {
namespace {

namespace fs = std::filesystem;
constexpr uintmax_t kMaxFileBytes = uintmax_t{1} << 30;

Result<std::string> read_file(const fs::path& path) {
  std::error_code ec;
  const uintmax_t size = fs::file_size(path, ec);
  if (ec) return make_error(ErrorCode::kNotFound, "{}: {}", path.string(), ec.message());
  if (size > kMaxFileBytes) {
    return make_error(ErrorCode::kInvalidArgument, "{}: {} bytes is too large for a tokenizer file",
                      path.string(), size);
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  std::string text(size, '\0');
  if (file == nullptr || std::fread(text.data(), 1, text.size(), file.get()) != text.size()) {
    return make_error(ErrorCode::kDataLoss, "{}: cannot be read", path.string());
  }
  return text;
}

Status in_file(const fs::path& path, Status status) {
  if (!status)
    status.error().message =
        printable(path.string() + ": " + status.error().message, 4096 + kMaxMessage);
  return status;
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> Tokenizer::from_directory(const fs::path& dir) {
  std::error_code ec;
  TokenizerConfig config;
  const fs::path config_path = dir / "tokenizer_config.json";
  if (fs::exists(config_path, ec)) {
    ATOM_ASSIGN_OR_RETURN(const std::string text, read_file(config_path));
    auto parsed = parse_tokenizer_config(text);
    if (!parsed)
      return make_error(
          parsed.error().code, "{}",
          printable(config_path.string() + ": " + parsed.error().message, 4096 + kMaxMessage));
    config = std::move(*parsed);
  }
  TokenizerParts parts;
  const fs::path json_path = dir / "tokenizer.json", tiktoken_path = dir / "tiktoken.model";
  if (fs::exists(json_path, ec)) {
    ATOM_ASSIGN_OR_RETURN(const std::string text, read_file(json_path));
    ATOM_RETURN_IF_ERROR(in_file(json_path, load_tokenizer_json(text, parts)));
  } else if (fs::exists(tiktoken_path, ec)) {
    ATOM_ASSIGN_OR_RETURN(const std::string text, read_file(tiktoken_path));
    ATOM_RETURN_IF_ERROR(in_file(tiktoken_path, load_tiktoken(text, config, parts)));
  } else {
    return make_error(ErrorCode::kNotFound,
                      "{}: neither tokenizer.json nor tiktoken.model is there", dir.string());
  }
  ATOM_RETURN_IF_ERROR(in_file(config_path, apply_tokenizer_config(config, parts)));
  return std::make_shared<const PipelineTokenizer>(std::move(parts));
}

}  // namespace atom
