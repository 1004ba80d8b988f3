#include "atom/model_loader/hub.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>

#include "atom/core/log.h"
#include "atom/model_loader/blob_download.h"
#include "atom/model_loader/http_client.h"
#include "atom/model_loader/hub_cache.h"
#include "atom/model_loader/json_fields.h"
#include "atom/model_loader/mapped_file.h"
#include "atom/model_loader/safetensors_index.h"
#include "atom/model_loader/text.h"

namespace atom {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr int64_t kMaxSmallFileBytes = int64_t{1} << 30;  // config, index or tokenizer

struct RemoteFile {
  std::string name, etag;
  int64_t size = 0;
};

// Everything a model needs beside its weights: JSON files, tokenizers, chat templates.
bool is_small_file(std::string_view name) {
  return name.ends_with(".json") || name.ends_with(".jinja") || name.ends_with(".tiktoken") ||
         name == "tokenizer.model" || name == "tiktoken.model" || name == "merges.txt" ||
         name == "vocab.txt";
}

bool is_etag(std::string_view text) {
  return !text.empty() && text.size() <= 128 && text.front() != '.' &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                  c == '-' || c == '_' || c == '.';
         });
}

// W/"abc" -> abc
std::string bare_etag(std::string text) {
  if (text.starts_with("W/")) text.erase(0, 2);
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"')
    text = text.substr(1, text.size() - 2);
  return text;
}

std::string url_encoded(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       c == '-' || c == '_' || c == '.' || c == '~';
    out += plain ? std::string(1, c)
                 : str_format("%{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
  }
  return out;
}

// Downloads one model. One use.
class HubDownload {
 public:
  HubDownload(const ModelSourceConfig& config, const HubName& name, const HubCache& cache,
              std::unique_ptr<HttpClient> http)
      : config_(config), name_(name), cache_(cache), http_(std::move(http)) {}

  Result<fs::path> run(HubNeeds needs) {
    ATOM_RETURN_IF_ERROR(list_files());
    ATOM_RETURN_IF_ERROR(cache_.create_directories());
    for (const std::string& file : files_) {
      if (!is_small_file(file)) continue;
      ATOM_ASSIGN_OR_RETURN(const RemoteFile remote, look_up(file));
      if (remote.size > kMaxSmallFileBytes) {
        return make_error(ErrorCode::kInvalidArgument,
                          "{}: too large (found {} bytes, expected at most {})", file, remote.size,
                          kMaxSmallFileBytes);
      }
      ATOM_RETURN_IF_ERROR(fetch(remote));
    }
    if (needs.weights) ATOM_RETURN_IF_ERROR(fetch_weights());
    ATOM_RETURN_IF_ERROR(cache_.write_ref(commit_));
    progress_.clear();
    return cache_.snapshot_dir(commit_);
  }

 private:
  bool offers(std::string_view file) const {
    return std::find(files_.begin(), files_.end(), file) != files_.end();
  }

  // Any HTTP answer that is no success, in words.
  std::unexpected<Error> refusal(const HttpResponse& response, const std::string& what) const {
    const std::string code = response.header("x-error-code");
    const std::string page = config_.hub_endpoint + "/" + name_.id;
    if (code == "GatedRepo" || response.status == 403) {
      return make_error(
          ErrorCode::kInvalidArgument,
          "access denied: the model is gated (accept its terms at {} and set HF_TOKEN)", page);
    }
    if (code == "RevisionNotFound")
      return make_error(ErrorCode::kNotFound, "no such revision (found \"{}\")",
                        printable(name_.revision));
    if (response.status == 401 && !config_.hub_token.empty() && code != "RepoNotFound") {
      return make_error(ErrorCode::kInvalidArgument, "access denied: HF_TOKEN is not valid at {}",
                        config_.hub_endpoint);
    }
    if (code == "EntryNotFound")
      return make_error(ErrorCode::kNotFound, "{}: no such file at {}", what, page);
    if (response.status == 401 || response.status == 404) {
      return make_error(ErrorCode::kNotFound,
                        "no such model at {}, or it is private (then set HF_TOKEN)",
                        config_.hub_endpoint);
    }
    return make_error(
        is_retryable_status(response.status) ? ErrorCode::kUnavailable : ErrorCode::kNotFound,
        "{}: HTTP status {}", what, response.status);
  }

  // With retries for what the network or an overloaded server breaks.
  Result<HttpResponse> send(HttpRequest request, const std::string& what) {
    request.bearer_token = config_.hub_token;
    for (int tries = 1;; ++tries) {
      auto response = http_->send(request);
      const bool retry = response ? is_retryable_status(response->status)
                                  : response.error().code == ErrorCode::kUnavailable;
      if (!retry || tries == kMaxTries) {
        if (!response || response->status < 400) return response;
        return refusal(*response, what);
      }
      wait_before_retry(tries, response ? response->header("retry-after") : "");
    }
  }

  // HEAD, following only redirects within the same server (a renamed model): the answer before the
  // one to the storage service carries size and ETag.
  Result<HttpResponse> send_head(std::string url, const std::string& what) {
    for (int hop = 0; hop < 5; ++hop) {
      ATOM_ASSIGN_OR_RETURN(HttpResponse response, send({.url = url, .head = true}, what));
      const std::string location = response.header("location");
      if (response.status < 300 || !location.starts_with('/') || location.starts_with("//"))
        return response;
      url = origin() + location;
    }
    return make_error(ErrorCode::kUnavailable, "{}: too many redirects", what);
  }

  std::string origin() const {
    const size_t host = config_.hub_endpoint.find("://") + 3;
    return config_.hub_endpoint.substr(0, config_.hub_endpoint.find('/', host));
  }

  Status list_files() {
    const std::string url = str_format("{}/api/models/{}/revision/{}", config_.hub_endpoint,
                                       name_.id, url_encoded(name_.revision));
    ATOM_ASSIGN_OR_RETURN(const HttpResponse response,
                          send({.url = url, .follow_redirects = true}, "file list"));
    auto object = parse_json_object(response.body);
    if (!object) return with_file("file list", std::move(object.error()));
    const json::value* sha = json_field(*object, "sha");
    const json::value* siblings = json_field(*object, "siblings");
    if (sha == nullptr || !sha->is_string() ||
        !is_commit_hash(std::string_view(sha->get_string())) || siblings == nullptr ||
        !siblings->is_array()) {
      return make_error(ErrorCode::kUnavailable, "file list: {} does not answer like a model hub",
                        config_.hub_endpoint);
    }
    commit_ = std::string_view(sha->get_string());
    for (const json::value& entry : siblings->get_array()) {
      const json::value* file =
          entry.is_object() ? json_field(entry.get_object(), "rfilename") : nullptr;
      if (file == nullptr || !file->is_string()) continue;
      const std::string_view file_name = file->get_string();
      if (is_plain_file_name(file_name) && file_name.front() != '.') files_.emplace_back(file_name);
    }
    return {};
  }

  Result<RemoteFile> look_up(const std::string& file) {
    ATOM_ASSIGN_OR_RETURN(const HttpResponse response, send_head(file_url(file), file));
    const std::string linked_etag = response.header("x-linked-etag"),
                      linked_size = response.header("x-linked-size");
    RemoteFile remote{
        .name = file,
        .etag = bare_etag(linked_etag.empty() ? response.header("etag") : linked_etag)};
    const std::string size = linked_size.empty() ? response.header("content-length") : linked_size;
    char* end = nullptr;
    remote.size = std::strtoll(size.c_str(), &end, 10);
    if (!is_etag(remote.etag) || size.empty() || *end != '\0' || remote.size < 0) {
      return make_error(ErrorCode::kUnavailable,
                        "{}: the server names no size or ETag (found size \"{}\", ETag \"{}\")",
                        file, printable(size), printable(remote.etag));
    }
    return remote;
  }

  std::string file_url(const std::string& file) const {
    return str_format("{}/{}/resolve/{}/{}", config_.hub_endpoint, name_.id, commit_,
                      url_encoded(file));
  }

  Status fetch(const RemoteFile& remote) {
    ATOM_RETURN_IF_ERROR(download_blob(*http_,
                                       {.url = file_url(remote.name),
                                        .bearer_token = config_.hub_token,
                                        .name = remote.name,
                                        .etag = remote.etag,
                                        .size = remote.size,
                                        .path = cache_.blob(remote.etag),
                                        .lock = cache_.lock_file(remote.etag)},
                                       progress_));
    return cache_.link(commit_, remote.name, remote.etag);
  }

  // The one file, or the shards of the index, that transformers would load.
  Result<std::vector<std::string>> weight_files() const {
    if (offers(kSafetensorsName)) return std::vector<std::string>{kSafetensorsName};
    if (offers(kSafetensorsIndexName)) {
      const fs::path path = cache_.snapshot_dir(commit_) / kSafetensorsIndexName;
      ATOM_ASSIGN_OR_RETURN(const std::string text, read_small_file(path, kMaxIndexBytes));
      auto index = parse_safetensors_index(text);
      if (!index) return with_file(kSafetensorsIndexName, std::move(index.error()));
      return std::vector<std::string>(index->shards.begin(), index->shards.end());
    }
    std::vector<std::string> single;
    bool gguf = false;
    for (const std::string& file : files_) {
      if (file.ends_with(".safetensors")) single.push_back(file);
      gguf = gguf || file.ends_with(".gguf");
    }
    if (single.size() == 1) return single;
    return make_error(ErrorCode::kUnsupported, "the repository has no model.safetensors{}",
                      gguf ? "; download one of its .gguf files and name that file"
                           : " (pickle formats are not loaded)");
  }

  Status fetch_weights() {
    ATOM_ASSIGN_OR_RETURN(const std::vector<std::string> names, weight_files());
    std::vector<RemoteFile> remotes;
    int64_t total = 0, needed = 0;
    for (const std::string& name : names) {
      ATOM_ASSIGN_OR_RETURN(const RemoteFile remote, look_up(name));
      if (__builtin_add_overflow(total, remote.size, &total))
        return make_error(ErrorCode::kUnavailable, "{}: impossible size", name);
      needed += remote.size - present_bytes(remote);
      remotes.push_back(remote);
    }
    ATOM_RETURN_IF_ERROR(check_space(needed));
    if (needed > 0)
      log_info("downloading {} ({} of {})", name_.id, human_bytes(needed), human_bytes(total));
    progress_.begin(total);
    for (const RemoteFile& remote : remotes) {
      ATOM_RETURN_IF_ERROR(fetch(remote));
    }
    return {};
  }

  int64_t present_bytes(const RemoteFile& remote) const {
    const fs::path blob = cache_.blob(remote.etag);
    int64_t present = 0;
    for (const fs::path& path : {blob, fs::path(blob.string() + ".incomplete")}) {
      std::error_code error;
      const auto size = fs::file_size(path, error);
      if (!error) present = std::max(present, std::min(static_cast<int64_t>(size), remote.size));
    }
    return present;
  }

  Status check_space(int64_t needed) const {
    struct statvfs info {};
    const fs::path dir = cache_.blob("x").parent_path();
    if (statvfs(dir.c_str(), &info) != 0) return {};
    const int64_t free = static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
    if (free >= needed) return {};
    return make_error(ErrorCode::kResourceExhausted,
                      "{}: not enough space (found {} free, expected {})", printable(dir),
                      human_bytes(free), human_bytes(needed));
  }

  const ModelSourceConfig& config_;
  const HubName& name_;
  const HubCache& cache_;
  std::unique_ptr<HttpClient> http_;
  DownloadProgress progress_;
  std::string commit_;
  std::vector<std::string> files_;  // of the repository's top folder
};

// A snapshot that holds one GGUF file and no safetensors is that file; Checkpoint::open finds it.
Result<fs::path> resolve_hub_name(const ModelSourceConfig& config, const HubName& name,
                                  HubNeeds needs) {
  if (config.hub_cache_dir.empty()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{}: no place for the model cache (set HF_HOME or HF_HUB_CACHE)", name.id);
  }
  const HubCache cache(config.hub_cache_dir, name);
  const std::optional<fs::path> snapshot = cache.find_snapshot();
  const std::string missing = snapshot ? missing_from_snapshot(*snapshot, needs) : "its files";
  if (snapshot && missing.empty()) return *snapshot;
  if (config.hub_offline) {
    return make_error(ErrorCode::kNotFound,
                      "{}: not whole in the cache {} and HF_HUB_OFFLINE is set (missing: {})",
                      name.id, printable(fs::path(config.hub_cache_dir)), printable(missing));
  }
  Result<fs::path> path;
  if (auto http = HttpClient::create()) {
    path = HubDownload(config, name, cache, std::move(*http)).run(needs);
  } else {
    path = std::unexpected(std::move(http.error()));
  }
  needs.tokenizer = needs.tokenizer && !needs.weights;  // one can be given in other ways
  if (!path && snapshot && missing_from_snapshot(*snapshot, needs).empty()) {
    log_warning("{}: {}; using what the cache has (missing: {})", name.id, path.error().message,
                missing);
    return *snapshot;
  }
  if (!path) path.error().message = name.id + ": " + path.error().message;
  return path;
}

}  // namespace

Result<fs::path> resolve_model(const ModelSourceConfig& config, HubNeeds needs) {
  const fs::path path = config.model;
  std::error_code error;
  if (fs::exists(path, error) || error) return path;  // opening it says what is wrong with it
  const bool looks_like_path = config.model.starts_with('/') || config.model.starts_with('.') ||
                               config.model.starts_with('~') || path.extension() == ".gguf" ||
                               path.extension() == ".safetensors";
  const std::optional<HubName> name = parse_hub_name(config.model);
  if (looks_like_path || !name) {
    return make_error(ErrorCode::kNotFound, "{}: no such file or directory{}", printable(path),
                      looks_like_path ? "" : ", and not a hub name (expected org/name[@revision])");
  }
  if (config.load_dummy != DummyWeights::kNone) needs.weights = false;
  return resolve_hub_name(config, *name, needs);
}

}  // namespace atom
