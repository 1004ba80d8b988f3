// tokenizer.json -> TokenizerParts: model, added tokens, and (tokenizer_json_parts.cpp) the
// component chains. Only BPE models; other types are refused by name.
#include "atom/core/printable.h"
#include "atom/tokenizer/json_fields.h"
#include "atom/tokenizer/json_reader.h"
#include "atom/tokenizer/loaders.h"
#include "atom/tokenizer/tokenizer_json_parts.h"

namespace atom {
namespace json = boost::json;
namespace {

// Keys of `model` that change the ids and that we do not have.
Status refuse_unsupported_model(const JsonFields& model) {
  if (const json::value* dropout = model.find("dropout")) {
    if (!dropout->is_number() || dropout->to_number<double>() != 0) {
      return make_error(ErrorCode::kUnsupported, "model.dropout must be null or 0");
    }
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ATOM_ASSIGN_OR_RETURN(const std::string text, model.string(key, ""));
    if (!text.empty()) return make_error(ErrorCode::kUnsupported, "model.{} is not supported", key);
  }
  return {};
}

Status load_vocab(const TokenizerDocument& doc, bool byte_level, Vocab& vocab) {
  if (!doc.has_vocab) return make_error(ErrorCode::kInvalidArgument, "model.vocab is missing");
  vocab.reserve(doc.vocab_tokens.size(), doc.vocab_tokens.chars.size());
  for (size_t i = 0; i < doc.vocab_tokens.size(); ++i) {
    if (auto added = vocab.add(doc.vocab_tokens[i], doc.vocab_ids[i]); !added) {
      return make_error(added.error().code, "model.vocab: {}", added.error().message);
    }
  }
  if (auto done = vocab.finish(byte_level); !done) {
    return make_error(done.error().code, "model.vocab: {}", done.error().message);
  }
  return {};
}

Status load_model(const TokenizerDocument& doc, const json::object& root, bool byte_level,
                  TokenizerParts& parts) {
  const json::value* value = root.if_contains("model");
  if (value == nullptr) return make_error(ErrorCode::kInvalidArgument, "model is missing");
  ATOM_ASSIGN_OR_RETURN(const JsonFields model, JsonFields::of(*value, "model"));
  ATOM_ASSIGN_OR_RETURN(const std::string type, model.string("type", "BPE"));
  if (type != "BPE") {
    return make_error(ErrorCode::kUnsupported, "model.type is \"{}\"; supported is BPE", type);
  }
  ATOM_RETURN_IF_ERROR(refuse_unsupported_model(model));
  ATOM_RETURN_IF_ERROR(load_vocab(doc, byte_level, parts.model.vocab()));
  std::vector<BpeModel::Merge> merges;
  merges.reserve(doc.merge_parts.size() / 2);
  for (size_t i = 0; i + 1 < doc.merge_parts.size(); i += 2) {
    merges.push_back({doc.merge_parts[i], doc.merge_parts[i + 1]});
  }
  if (auto added = parts.model.add_merges(merges); !added) {
    return make_error(added.error().code, "model.merges: {}", added.error().message);
  }
  BpeOptions options{.byte_level = byte_level};
  ATOM_ASSIGN_OR_RETURN(options.byte_fallback, model.boolean("byte_fallback", false));
  ATOM_ASSIGN_OR_RETURN(options.fuse_unk, model.boolean("fuse_unk", false));
  ATOM_ASSIGN_OR_RETURN(options.ignore_merges, model.boolean("ignore_merges", false));
  ATOM_ASSIGN_OR_RETURN(parts.unk_token, model.string("unk_token", ""));
  if (!parts.unk_token.empty()) {
    options.unk_id = parts.model.vocab().find(parts.unk_token);
    if (options.unk_id < 0) {
      return make_error(ErrorCode::kInvalidArgument,
                        "model.unk_token \"{}\" is not in the vocabulary",
                        parts.unk_token.substr(0, 100));
    }
  }
  parts.model.set_options(options);
  return {};
}

Result<AddedToken> read_added_token(const json::value& value, size_t index) {
  ATOM_ASSIGN_OR_RETURN(const JsonFields f,
                        JsonFields::of(value, str_format("added_tokens[{}]", index)));
  ATOM_ASSIGN_OR_RETURN(const int64_t id, f.integer("id"));
  if (id < 0 || id > Vocab::kMaxId) {
    return make_error(ErrorCode::kInvalidArgument, "{}.id is {} (ids are 0 to {})", f.path(), id,
                      Vocab::kMaxId);
  }
  AddedToken token{.id = static_cast<int32_t>(id), .content = {}};
  ATOM_ASSIGN_OR_RETURN(token.content, f.string("content"));
  ATOM_ASSIGN_OR_RETURN(token.single_word, f.boolean("single_word", false));
  ATOM_ASSIGN_OR_RETURN(token.lstrip, f.boolean("lstrip", false));
  ATOM_ASSIGN_OR_RETURN(token.rstrip, f.boolean("rstrip", false));
  ATOM_ASSIGN_OR_RETURN(token.special, f.boolean("special", false));
  ATOM_ASSIGN_OR_RETURN(token.normalized, f.boolean("normalized", !token.special));
  return token;
}

Status load_added_tokens(const json::object& root, TokenizerParts& parts) {
  const json::value* list = root.if_contains("added_tokens");
  if (list == nullptr || list->is_null()) return {};
  if (!list->is_array())
    return make_error(ErrorCode::kInvalidArgument, "added_tokens is not a list");
  const Vocab& vocab = parts.model.vocab();
  std::string buffer;
  for (size_t i = 0; i < list->get_array().size(); ++i) {
    ATOM_ASSIGN_OR_RETURN(AddedToken token, read_added_token(list->get_array()[i], i));
    const int32_t known = vocab.find(token.content);
    if (known >= 0 && known != token.id) {
      return make_error(ErrorCode::kInvalidArgument,
                        "added_tokens[{}]: \"{}\" has id {}, but model.vocab gives it {}", i,
                        token.content.substr(0, 100), token.id, known);
    }
    if (known < 0 && vocab.has(token.id)) {
      return make_error(ErrorCode::kInvalidArgument,
                        "added_tokens[{}]: \"{}\" has id {}, which model.vocab gives to \"{}\"", i,
                        token.content.substr(0, 100), token.id,
                        vocab.token(token.id).substr(0, 100));
    }
    const std::string content = token.content;
    if (auto added = parts.added.add(std::move(token), parts.normalizer.run(content, buffer));
        !added) {
      return make_error(added.error().code, "added_tokens[{}]: {}", i, added.error().message);
    }
  }
  return {};
}

Status load_parts(std::string_view text, TokenizerParts& parts) {
  ATOM_ASSIGN_OR_RETURN(const TokenizerDocument doc, read_tokenizer_document(text));
  if (!doc.rest.is_object())
    return make_error(ErrorCode::kInvalidArgument, "the file is not a JSON object");
  const json::object& root = doc.rest.get_object();
  ATOM_RETURN_IF_ERROR(read_normalizer(root, parts.normalizer));
  bool byte_level = false;
  ATOM_RETURN_IF_ERROR(read_pre_tokenizer(root, parts.pre_tokenizer, byte_level));
  ATOM_RETURN_IF_ERROR(read_decoder(root, parts.decoder));
  ATOM_RETURN_IF_ERROR(load_model(doc, root, byte_level, parts));
  ATOM_RETURN_IF_ERROR(load_added_tokens(root, parts));
  ATOM_RETURN_IF_ERROR(read_post_processor(root, parts.prefix_ids, parts.suffix_ids));
  for (const std::vector<int32_t>* ids : {&parts.prefix_ids, &parts.suffix_ids}) {
    for (const int32_t id : *ids) {
      if (parts.model.vocab().has(id) || parts.added.by_id(id) != nullptr) continue;
      return make_error(ErrorCode::kInvalidArgument,
                        "post_processor adds id {}, which is not in the vocabulary", id);
    }
  }
  return {};
}

}  // namespace

Status load_tokenizer_json(std::string_view text, TokenizerParts& parts) {
  Status loaded = load_parts(text, parts);
  if (!loaded) loaded.error().message = printable(loaded.error().message, kMaxMessage);
  return loaded;
}

}  // namespace atom
