#include "atom/model_loader/safetensors_checkpoint.h"

#include <algorithm>
#include <boost/json.hpp>
#include <set>

#include "atom/core/log.h"
#include "atom/model_loader/checkpoint_base.h"
#include "atom/model_loader/hf_config.h"
#include "atom/model_loader/json_fields.h"
#include "atom/model_loader/safetensors.h"
#include "atom/model_loader/safetensors_index.h"
#include "atom/model_loader/text.h"

namespace atom {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr int64_t kMaxJsonBytes = 64 << 20;
constexpr int64_t kMaxTemplateBytes = 1 << 20;

class SafetensorsCheckpoint final : public CheckpointBase {
 public:
  explicit SafetensorsCheckpoint(fs::path dir) : dir_(std::move(dir)) {}

  Status load(const std::vector<fs::path>& files) {
    ATOM_ASSIGN_OR_RETURN(DirectoryConfig config, read_hf_config(dir_));
    config_ = std::move(config.model);
    generation_ = config.generation;
    if (files.empty()) return {};
    ATOM_ASSIGN_OR_RETURN(const SafetensorsIndex index, choose_shards(files));
    std::vector<CheckpointTensor> tensors;
    for (const std::string& shard : shards_) {
      ATOM_RETURN_IF_ERROR(load_shard(shard, index, tensors));
    }
    ATOM_RETURN_IF_ERROR(check_against_index(index, tensors));
    return set_tensors(std::move(tensors), dir_ / "config.json");
  }

  Result<std::shared_ptr<const Tokenizer>> load_tokenizer() const override {
    auto tokenizer = Tokenizer::from_directory(dir_);
    if (tokenizer && (*tokenizer)->vocab_size() > config_.vocab_size) {
      log_warning("{}: the tokenizer has more tokens ({}) than the model ({})", printable(dir_),
                  (*tokenizer)->vocab_size(), config_.vocab_size);
    }
    return tokenizer;
  }

  Result<std::optional<std::string>> chat_template() const override;

  std::string format_name() const override {
    if (shards_.empty()) return "no weights";
    return shards_.size() == 1 ? "safetensors"
                               : str_format("safetensors ({} shards)", shards_.size());
  }

 private:
  // model.safetensors, else the index, else the only file; as transformers chooses.
  Result<SafetensorsIndex> choose_shards(const std::vector<fs::path>& files) {
    std::error_code error;
    if (std::find(files.begin(), files.end(), dir_ / kSafetensorsName) != files.end()) {
      shards_ = {kSafetensorsName};
      return SafetensorsIndex{};
    }
    const fs::path index_file = dir_ / kSafetensorsIndexName;
    if (fs::exists(index_file, error)) {
      ATOM_ASSIGN_OR_RETURN(const std::string text, read_small_file(index_file, kMaxIndexBytes));
      auto index = parse_safetensors_index(text);
      if (!index) return with_file(index_file, std::move(index.error()));
      shards_.assign(index->shards.begin(), index->shards.end());
      return index;
    }
    if (files.size() != 1) {
      return make_error(ErrorCode::kNotFound,
                        "{}: missing, and the directory has several weight files (found {})",
                        printable(index_file), files.size());
    }
    shards_ = {files.front().filename()};
    return SafetensorsIndex{};
  }

  Status load_shard(const std::string& shard, const SafetensorsIndex& index,
                    std::vector<CheckpointTensor>& tensors) {
    const fs::path path = dir_ / shard;
    auto file = MappedFile::open(path);
    if (!file) {
      if (file.error().code == ErrorCode::kNotFound && !index.shards.empty()) {
        return make_error(ErrorCode::kNotFound, "{}: no such file, but {} names it",
                          printable(path), kSafetensorsIndexName);
      }
      return std::unexpected(std::move(file.error()));
    }
    auto parsed = parse_safetensors((*file)->bytes());
    if (!parsed) return with_file(path, std::move(parsed.error()));
    for (SafetensorsTensor& tensor : *parsed) {
      if (!index.shards.empty()) {
        const auto owner = index.shard_of.find(tensor.name);
        if (owner == index.shard_of.end() || owner->second != shard) {
          return make_error(ErrorCode::kDataLoss, "{}: tensor \"{}\": {} {}", printable(path),
                            printable(tensor.name), kSafetensorsIndexName,
                            owner == index.shard_of.end()
                                ? "does not list it"
                                : "places it in " + printable(owner->second));
        }
      }
      tensors.push_back({.name = std::move(tensor.name),
                         .dtype = tensor.dtype,
                         .shape = std::move(tensor.shape),
                         .data = (*file)->bytes().data() + tensor.begin,
                         .nbytes = tensor.end - tensor.begin,
                         .file = path});
    }
    files_.push_back(std::move(*file));
    return {};
  }

  // Every tensor of a shard is in the index (load_shard), so equal counts mean equal sets.
  Status check_against_index(const SafetensorsIndex& index,
                             const std::vector<CheckpointTensor>& tensors) const {
    if (index.shards.empty()) return {};
    int64_t bytes = 0;
    std::set<std::string_view> present;
    for (const CheckpointTensor& tensor : tensors) {
      present.insert(tensor.name);
      bytes += tensor.nbytes;
    }
    for (const auto& [name, shard] : index.shard_of) {
      if (present.contains(name)) continue;
      return make_error(ErrorCode::kDataLoss, "{}: tensor \"{}\": missing, but {} places it here",
                        printable(dir_ / shard), printable(name), kSafetensorsIndexName);
    }
    if (index.total_size && *index.total_size != bytes) {
      log_warning("{}: metadata.total_size is wrong (found {}, expected {})",
                  printable(dir_ / kSafetensorsIndexName), *index.total_size, bytes);
    }
    return {};
  }

  fs::path dir_;
  std::vector<std::string> shards_;
};

// A file that may be absent.
Result<std::optional<std::string>> read_optional(const fs::path& path, int64_t max_bytes) {
  auto text = read_small_file(path, max_bytes);
  if (text) return std::move(*text);
  if (text.error().code == ErrorCode::kNotFound) return std::nullopt;
  return std::unexpected(std::move(text.error()));
}

// `chat_template` of one JSON file: a string, or a list of {name, template} of which "default"
// counts.
Result<std::optional<std::string>> template_of_json(std::string_view text) {
  ATOM_ASSIGN_OR_RETURN(const json::object object, parse_json_object(text));
  const json::value* value = json_field(object, "chat_template");
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return std::string(std::string_view(value->get_string()));
  if (!value->is_array()) {
    return make_error(ErrorCode::kInvalidArgument,
                      "chat_template: wrong type (found {}, expected a string or a list)",
                      describe_json(*value));
  }
  for (const json::value& entry : value->get_array()) {
    const json::object* named = entry.if_object();
    if (named == nullptr) continue;
    const JsonFields fields{*named, "chat_template[]."};
    ATOM_ASSIGN_OR_RETURN(const std::optional<std::string> name, fields.string("name"));
    if (name == "default") return fields.string("template");
  }
  return std::nullopt;
}

Result<std::optional<std::string>> SafetensorsCheckpoint::chat_template() const {
  ATOM_ASSIGN_OR_RETURN(auto jinja, read_optional(dir_ / "chat_template.jinja", kMaxTemplateBytes));
  if (jinja) return jinja;
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    ATOM_ASSIGN_OR_RETURN(const auto text, read_optional(dir_ / name, kMaxJsonBytes));
    if (!text) continue;
    auto found = template_of_json(*text);
    if (!found) return with_file(dir_ / name, std::move(found.error()));
    if (*found) return found;
  }
  return std::nullopt;
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> open_safetensors_directory(const fs::path& dir,
                                                               const std::vector<fs::path>& files) {
  auto checkpoint = std::make_unique<SafetensorsCheckpoint>(dir);
  ATOM_RETURN_IF_ERROR(checkpoint->load(files));
  return checkpoint;
}

}  // namespace atom
