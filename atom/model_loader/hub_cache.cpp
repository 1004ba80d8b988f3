#include "atom/model_loader/hub_cache.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "atom/model_loader/mapped_file.h"
#include "atom/model_loader/safetensors_index.h"
#include "atom/model_loader/text.h"

namespace atom {
namespace {

namespace fs = std::filesystem;

bool is_alphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

// huggingface_hub's rule: 1 to 96 of [A-Za-z0-9_.-], a word character at both ends, no "--" and no
// "..".
bool is_name_part(std::string_view part) {
  return !part.empty() && part.size() <= 96 && is_alphanumeric(part.front()) &&
         is_alphanumeric(part.back()) && part.find("--") == std::string_view::npos &&
         part.find("..") == std::string_view::npos &&
         std::all_of(part.begin(), part.end(),
                     [](char c) { return is_alphanumeric(c) || c == '-' || c == '.'; });
}

bool is_revision(std::string_view text) {
  return !text.empty() && text.size() <= 200 && text.front() != '/' && text.back() != '/' &&
         text.front() != '.' && text.find("..") == std::string_view::npos &&
         text.find("//") == std::string_view::npos && text.find("/.") == std::string_view::npos &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return is_alphanumeric(c) || c == '-' || c == '.' || c == '/'; });
}

bool has(const fs::path& file) {
  std::error_code error;
  return fs::is_regular_file(file, error);
}

std::string missing_weights(const fs::path& snapshot) {
  if (has(snapshot / kSafetensorsName)) return {};
  if (has(snapshot / kSafetensorsIndexName)) {
    const auto text = read_small_file(snapshot / kSafetensorsIndexName, kMaxIndexBytes);
    if (!text) return kSafetensorsIndexName;
    const auto index = parse_safetensors_index(*text);
    if (!index) return {};  // damaged: opening it says how
    for (const std::string& shard : index->shards) {
      if (!has(snapshot / shard)) return shard;
    }
    return {};
  }
  std::error_code error;
  for (fs::directory_iterator it(snapshot, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    if (it->path().extension() == ".safetensors" && has(it->path())) return {};
  }
  return kSafetensorsName;
}

bool has_tokenizer(const fs::path& snapshot) {
  std::error_code error;
  for (fs::directory_iterator it(snapshot, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string name = it->path().filename();
    if ((name == "tokenizer.json" || name == "tokenizer.model" || name == "vocab.json" ||
         name.ends_with(".tiktoken") || name == "tiktoken.model") &&
        has(it->path())) {
      return true;
    }
  }
  return false;
}

int count_gguf(const fs::path& snapshot) {
  int count = 0;
  std::error_code error;
  for (fs::directory_iterator it(snapshot, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    count += it->path().extension() == ".gguf" && has(it->path());
  }
  return count;
}

Status filesystem_error(const fs::path& path, const std::error_code& error) {
  return make_error(error == std::errc::no_space_on_device ? ErrorCode::kResourceExhausted
                                                           : ErrorCode::kInvalidArgument,
                    "{}: {}", printable(path), error.message());
}

}  // namespace

std::optional<HubName> parse_hub_name(std::string_view text) {
  HubName name;
  const size_t at = text.find('@');
  if (at != std::string_view::npos) {
    if (!is_revision(text.substr(at + 1))) return std::nullopt;
    name.revision = text.substr(at + 1);
    text = text.substr(0, at);
  }
  const size_t slash = text.find('/');
  const std::string_view owner = slash == std::string_view::npos ? text : text.substr(0, slash);
  if (!is_name_part(owner)) return std::nullopt;
  if (slash != std::string_view::npos && !is_name_part(text.substr(slash + 1))) return std::nullopt;
  name.id = text;
  return name;
}

bool is_commit_hash(std::string_view text) {
  return text.size() == 40 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

std::string missing_from_snapshot(const fs::path& snapshot, HubNeeds needs) {
  if (count_gguf(snapshot) == 1 && !missing_weights(snapshot).empty())
    return {};  // brings its own config and tokenizer
  if (needs.config && !has(snapshot / "config.json")) return "config.json";
  if (std::string missing = needs.weights ? missing_weights(snapshot) : ""; !missing.empty())
    return missing;
  return needs.tokenizer && !has_tokenizer(snapshot) ? "tokenizer.json" : "";
}

HubCache::HubCache(const fs::path& cache_dir, const HubName& name) : revision_(name.revision) {
  std::string folder = "models--" + name.id;
  if (const size_t slash = folder.find('/'); slash != std::string::npos)
    folder.replace(slash, 1, "--");
  root_ = cache_dir / folder;
  locks_ = cache_dir / ".locks" / folder;
}

std::optional<fs::path> HubCache::find_snapshot() const {
  std::string commit = revision_;
  if (!is_commit_hash(commit)) {
    const auto text = read_small_file(root_ / "refs" / revision_, 4096);
    if (!text) return std::nullopt;
    commit = text->substr(0, text->find_last_not_of(" \r\n") + 1);
    if (!is_plain_file_name(commit)) return std::nullopt;
  }
  std::error_code error;
  const fs::path dir = snapshot_dir(commit);
  return fs::is_directory(dir, error) ? std::optional(dir) : std::nullopt;
}

fs::path HubCache::snapshot_dir(std::string_view commit) const {
  return root_ / "snapshots" / commit;
}
fs::path HubCache::blob(std::string_view etag) const { return root_ / "blobs" / etag; }
fs::path HubCache::lock_file(std::string_view etag) const {
  return locks_ / (std::string(etag) + ".lock");
}

Status HubCache::create_directories() const {
  const fs::path ref_dir = (root_ / "refs" / revision_).parent_path();
  for (const fs::path& dir : {root_ / "blobs", root_ / "snapshots", ref_dir, locks_}) {
    std::error_code error;
    fs::create_directories(dir, error);
    if (error) return filesystem_error(dir, error);
  }
  return {};
}

Status HubCache::link(std::string_view commit, std::string_view file, std::string_view etag) const {
  const fs::path dir = snapshot_dir(commit);
  const fs::path target = fs::path("../../blobs") / etag;
  const fs::path temporary = dir / ("." + std::string(file) + str_format(".{}", getpid()));
  std::error_code error;
  fs::create_directories(dir, error);
  fs::remove(temporary, error);
  fs::create_symlink(target, temporary, error);
  if (error) return filesystem_error(temporary, error);
  fs::rename(temporary, dir / file, error);
  if (error) return filesystem_error(dir / file, error);
  return {};
}

Status HubCache::write_ref(std::string_view commit) const {
  if (is_commit_hash(revision_)) return {};
  const fs::path file = root_ / "refs" / revision_;
  const fs::path temporary = file.string() + str_format(".{}", getpid());
  std::ofstream stream(temporary, std::ios::trunc | std::ios::binary);
  stream << commit;
  stream.close();
  std::error_code error;
  if (!stream) error = std::make_error_code(std::errc::io_error);
  if (!error) fs::rename(temporary, file, error);
  if (!error) return {};
  std::error_code ignored;
  fs::remove(temporary, ignored);
  return filesystem_error(file, error);
}

}  // namespace atom
