// tokenizer_config.json: special token names, add_bos_token / add_eos_token, added_tokens_decoder.
#include <algorithm>
#include <charconv>

#include "atom/core/json.h"
#include "atom/tokenizer/json_fields.h"
#include "atom/tokenizer/loaders.h"

namespace atom {
namespace json = boost::json;
namespace {

// "bos_token": "<s>" or {"content": "<s>", ...} or null.
Result<std::string> token_text(const JsonFields& fields, std::string_view key) {
  const json::value* v = fields.find(key);
  if (v == nullptr) return std::string();
  if (v->is_string()) return std::string(v->get_string());
  ATOM_ASSIGN_OR_RETURN(const JsonFields object, JsonFields::of(*v, fields.path_of(key)));
  return object.string("content");
}

Result<std::optional<bool>> optional_bool(const JsonFields& fields, std::string_view key) {
  if (fields.find(key) == nullptr) return std::optional<bool>();
  ATOM_ASSIGN_OR_RETURN(const bool value, fields.boolean(key, false));
  return std::optional<bool>(value);
}

Result<AddedToken> added_token(std::string_view id_text, const json::value& value) {
  int64_t id = -1;
  const auto [end, ec] = std::from_chars(id_text.data(), id_text.data() + id_text.size(), id);
  if (ec != std::errc() || end != id_text.data() + id_text.size() || id < 0 || id > Vocab::kMaxId) {
    return make_error(ErrorCode::kInvalidArgument,
                      "added_tokens_decoder key \"{}\" is not an id (0 to {})",
                      id_text.substr(0, 100), Vocab::kMaxId);
  }
  ATOM_ASSIGN_OR_RETURN(const JsonFields f,
                        JsonFields::of(value, "added_tokens_decoder." + std::string(id_text)));
  AddedToken token{.id = static_cast<int32_t>(id), .content = {}};
  ATOM_ASSIGN_OR_RETURN(token.content, f.string("content"));
  ATOM_ASSIGN_OR_RETURN(token.single_word, f.boolean("single_word", false));
  ATOM_ASSIGN_OR_RETURN(token.lstrip, f.boolean("lstrip", false));
  ATOM_ASSIGN_OR_RETURN(token.rstrip, f.boolean("rstrip", false));
  ATOM_ASSIGN_OR_RETURN(token.normalized, f.boolean("normalized", false));
  ATOM_ASSIGN_OR_RETURN(token.special, f.boolean("special", false));
  return token;
}

}  // namespace

Result<TokenizerConfig> parse_tokenizer_config(std::string_view text) {
  ATOM_ASSIGN_OR_RETURN(const json::value document, parse_json(text));
  ATOM_ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::of(document, ""));
  TokenizerConfig config;
  ATOM_ASSIGN_OR_RETURN(config.add_bos_token, optional_bool(fields, "add_bos_token"));
  ATOM_ASSIGN_OR_RETURN(config.add_eos_token, optional_bool(fields, "add_eos_token"));
  ATOM_ASSIGN_OR_RETURN(config.bos_token, token_text(fields, "bos_token"));
  ATOM_ASSIGN_OR_RETURN(config.eos_token, token_text(fields, "eos_token"));
  ATOM_ASSIGN_OR_RETURN(config.pad_token, token_text(fields, "pad_token"));
  ATOM_ASSIGN_OR_RETURN(config.unk_token, token_text(fields, "unk_token"));
  if (const json::value* added = fields.find("added_tokens_decoder")) {
    if (!added->is_object()) {
      return make_error(ErrorCode::kInvalidArgument, "added_tokens_decoder is not an object");
    }
    for (const auto& [id, value] : added->get_object()) {
      ATOM_ASSIGN_OR_RETURN(AddedToken token, added_token(id, value));
      config.added_tokens.push_back(std::move(token));
    }
    std::sort(config.added_tokens.begin(), config.added_tokens.end(),
              [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  }
  return config;
}

namespace {

Result<int32_t> id_of(const TokenizerParts& parts, std::string_view key, std::string_view text) {
  if (const AddedToken* added = parts.added.by_content(text)) return added->id;
  const int32_t id = parts.model.vocab().find(text);
  if (id >= 0) return id;
  return make_error(ErrorCode::kInvalidArgument,
                    "{} is true, but its token \"{}\" is not in the vocabulary", key,
                    text.substr(0, 100));
}

}  // namespace

Status apply_tokenizer_config(const TokenizerConfig& config, TokenizerParts& parts) {
  parts.bos_token = config.bos_token;
  parts.eos_token = config.eos_token;
  parts.pad_token = config.pad_token;
  if (!config.unk_token.empty()) parts.unk_token = config.unk_token;
  // What the post-processor already adds is not added twice.
  if (config.add_bos_token.value_or(false) && !config.bos_token.empty()) {
    ATOM_ASSIGN_OR_RETURN(const int32_t id, id_of(parts, "add_bos_token", config.bos_token));
    if (parts.prefix_ids.empty() || parts.prefix_ids.front() != id) {
      parts.prefix_ids.insert(parts.prefix_ids.begin(), id);
    }
  }
  if (config.add_eos_token.value_or(false) && !config.eos_token.empty()) {
    ATOM_ASSIGN_OR_RETURN(const int32_t id, id_of(parts, "add_eos_token", config.eos_token));
    if (parts.suffix_ids.empty() || parts.suffix_ids.back() != id) parts.suffix_ids.push_back(id);
  }
  return {};
}

}  // namespace atom
