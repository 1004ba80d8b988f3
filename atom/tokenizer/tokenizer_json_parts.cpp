#include "atom/tokenizer/tokenizer_json_parts.h"

#include <functional>

#include "atom/tokenizer/json_fields.h"
#include "atom/tokenizer/unicode.h"
#include "atom/tokenizer/vocab.h"

namespace atom {
namespace json = boost::json;
namespace {

constexpr int kMaxNesting = 8;
constexpr size_t kMaxComponents = 64;

using Component = std::function<Status(const JsonFields& fields, std::string_view type)>;

// Calls `component` for the component at `value`, or for those of a (nested) Sequence, in order.
Status for_each_component(const json::value& value, const std::string& path, const char* list_key,
                          int depth, const Component& component) {
  ATOM_ASSIGN_OR_RETURN(const JsonFields fields, JsonFields::of(value, path));
  ATOM_ASSIGN_OR_RETURN(const std::string type, fields.string("type"));
  if (type != "Sequence") return component(fields, type);
  if (depth >= kMaxNesting) {
    return make_error(ErrorCode::kInvalidArgument, "{}: Sequence nested deeper than {}", path,
                      kMaxNesting);
  }
  ATOM_ASSIGN_OR_RETURN(const json::array* list, fields.array(list_key));
  if (list->size() > kMaxComponents) {
    return make_error(ErrorCode::kInvalidArgument, "{}.{} has {} entries (limit {})", path,
                      list_key, list->size(), kMaxComponents);
  }
  for (size_t i = 0; i < list->size(); ++i) {
    ATOM_RETURN_IF_ERROR(for_each_component((*list)[i], str_format("{}.{}[{}]", path, list_key, i),
                                            list_key, depth + 1, component));
  }
  return {};
}

Status read_chain(const json::object& root, const char* key, const char* list_key,
                  const Component& component) {
  const json::value* value = root.if_contains(key);
  if (value == nullptr || value->is_null()) return {};
  return for_each_component(*value, key, list_key, 0, component);
}

std::unexpected<Error> unknown_type(const JsonFields& fields, std::string_view type,
                                    const char* supported) {
  return make_error(ErrorCode::kUnsupported, "{}.type is \"{}\"; supported are {}", fields.path(),
                    type.substr(0, 100), supported);
}

// {"String": text} or {"Regex": text}.
struct Pattern {
  std::string text;
  bool is_regex = false;
};
Result<Pattern> read_pattern(const JsonFields& fields) {
  const json::value* value = fields.find("pattern");
  if (value == nullptr)
    return make_error(ErrorCode::kInvalidArgument, "{} is missing", fields.path_of("pattern"));
  ATOM_ASSIGN_OR_RETURN(const JsonFields object, JsonFields::of(*value, fields.path_of("pattern")));
  Pattern pattern;
  pattern.is_regex = object.find("Regex") != nullptr;
  ATOM_ASSIGN_OR_RETURN(pattern.text, object.string(pattern.is_regex ? "Regex" : "String"));
  if (pattern.text.empty()) {
    return make_error(ErrorCode::kInvalidArgument, "{} is empty", fields.path_of("pattern"));
  }
  return pattern;
}
Result<Regex> compile(const JsonFields& fields, const Pattern& pattern) {
  auto regex = pattern.is_regex ? Regex::compile(pattern.text) : Regex::literal(pattern.text);
  if (!regex)
    return make_error(regex.error().code, "{}: {}", fields.path_of("pattern"),
                      regex.error().message);
  return regex;
}

Result<SplitBehavior> read_behavior(const JsonFields& fields, std::string_view fallback) {
  ATOM_ASSIGN_OR_RETURN(const std::string name, fields.string("behavior", fallback));
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return make_error(ErrorCode::kInvalidArgument,
                    "{} is \"{}\"; it is one of Removed, Isolated, MergedWithPrevious, "
                    "MergedWithNext, Contiguous",
                    fields.path_of("behavior"), name.substr(0, 100));
}

Result<MetaspaceStage> read_metaspace(const JsonFields& fields) {
  using Prepend = MetaspaceStage::Prepend;
  MetaspaceStage stage;
  ATOM_ASSIGN_OR_RETURN(stage.replacement, fields.string("replacement", stage.replacement));
  if (stage.replacement.empty() || utf8_length(stage.replacement[0]) != stage.replacement.size()) {
    return make_error(ErrorCode::kInvalidArgument, "{} is not one character",
                      fields.path_of("replacement"));
  }
  ATOM_ASSIGN_OR_RETURN(stage.split, fields.boolean("split", true));
  ATOM_ASSIGN_OR_RETURN(const bool prefix, fields.boolean("add_prefix_space", true));
  ATOM_ASSIGN_OR_RETURN(const std::string scheme,
                        fields.string("prepend_scheme", prefix ? "always" : "never"));
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    return make_error(ErrorCode::kInvalidArgument,
                      "{} is \"{}\"; it is one of always, first, never",
                      fields.path_of("prepend_scheme"), scheme.substr(0, 100));
  }
  stage.prepend = scheme == "always"  ? Prepend::kAlways
                  : scheme == "first" ? Prepend::kFirst
                                      : Prepend::kNever;
  return stage;
}

Status read_norm_step(const JsonFields& fields, std::string_view type, Normalizer& out) {
  if (type == "NFC") {
    out.add(UnicodeStep{UnicodeForm::kNfc});
  } else if (type == "NFD") {
    out.add(UnicodeStep{UnicodeForm::kNfd});
  } else if (type == "NFKC") {
    out.add(UnicodeStep{UnicodeForm::kNfkc});
  } else if (type == "NFKD") {
    out.add(UnicodeStep{UnicodeForm::kNfkd});
  } else if (type == "Prepend") {
    ATOM_ASSIGN_OR_RETURN(std::string text, fields.string("prepend"));
    out.add(PrependStep{std::move(text)});
  } else if (type == "Replace") {
    ATOM_ASSIGN_OR_RETURN(Pattern pattern, read_pattern(fields));
    ReplaceStep step;
    ATOM_ASSIGN_OR_RETURN(step.content, fields.string("content"));
    if (pattern.is_regex) {
      ATOM_ASSIGN_OR_RETURN(step.regex, compile(fields, pattern));
    } else {
      step.literal = std::move(pattern.text);
    }
    out.add(std::move(step));
  } else if (type == "Strip") {
    StripStep step;
    ATOM_ASSIGN_OR_RETURN(step.left, fields.boolean("strip_left", true));
    ATOM_ASSIGN_OR_RETURN(step.right, fields.boolean("strip_right", true));
    out.add(step);
  } else {
    return unknown_type(fields, type, "Sequence, NFC, NFD, NFKC, NFKD, Prepend, Replace, Strip");
  }
  return {};
}

Result<SplitStage> read_split(const JsonFields& fields) {
  SplitStage stage;
  ATOM_ASSIGN_OR_RETURN(const Pattern pattern, read_pattern(fields));
  if (pattern.is_regex) stage.scanner = find_scanner(pattern.text);
  if (stage.scanner == nullptr) {
    ATOM_ASSIGN_OR_RETURN(stage.regex, compile(fields, pattern));
  }
  ATOM_ASSIGN_OR_RETURN(stage.behavior, read_behavior(fields, ""));
  ATOM_ASSIGN_OR_RETURN(stage.invert, fields.boolean("invert", false));
  return stage;
}

Status read_pre_stage(const JsonFields& fields, std::string_view type, PreTokenizer& out,
                      bool& byte_level) {
  if (byte_level) {
    return make_error(ErrorCode::kUnsupported, "{}: {} after ByteLevel is not supported",
                      fields.path(), type);
  }
  if (type == "Split") {
    ATOM_ASSIGN_OR_RETURN(SplitStage stage, read_split(fields));
    out.add(std::move(stage));
  } else if (type == "ByteLevel") {
    ATOM_ASSIGN_OR_RETURN(const bool prefix, fields.boolean("add_prefix_space", true));
    ATOM_ASSIGN_OR_RETURN(const bool regex, fields.boolean("use_regex", true));
    if (prefix) out.add(PrefixSpaceStage{});
    if (regex) out.add(SplitStage{.scanner = find_scanner(kGpt2Pattern), .regex = {}});
    byte_level = true;
  } else if (type == "Metaspace") {
    ATOM_ASSIGN_OR_RETURN(MetaspaceStage stage, read_metaspace(fields));
    out.add(std::move(stage));
  } else if (type == "Digits") {
    ATOM_ASSIGN_OR_RETURN(const bool single, fields.boolean("individual_digits", false));
    out.add(CharSplitStage{kCharN, single ? SplitBehavior::kIsolated : SplitBehavior::kContiguous});
  } else if (type == "WhitespaceSplit") {
    out.add(CharSplitStage{kCharSpace, SplitBehavior::kRemoved});
  } else {
    return unknown_type(fields, type,
                        "Sequence, Split, ByteLevel, Metaspace, Digits, WhitespaceSplit");
  }
  return {};
}

Status read_decode_stage(const JsonFields& fields, std::string_view type, Decoder& out) {
  if (type == "ByteLevel") return out.add(ByteLevelStage{}, type);
  if (type == "ByteFallback") return out.add(ByteFallbackStage{}, type);
  if (type == "Fuse") return out.add(FuseStage{}, type);
  if (type == "Replace") {
    ATOM_ASSIGN_OR_RETURN(Pattern pattern, read_pattern(fields));
    if (pattern.is_regex) {
      return make_error(ErrorCode::kUnsupported, "{}: a decoder replaces a String only",
                        fields.path_of("pattern"));
    }
    ATOM_ASSIGN_OR_RETURN(std::string content, fields.string("content"));
    return out.add(ReplaceStage{.literal = std::move(pattern.text), .content = std::move(content)},
                   type);
  }
  if (type == "Strip") {
    StripStage stage;
    ATOM_ASSIGN_OR_RETURN(stage.content, fields.string("content"));
    ATOM_ASSIGN_OR_RETURN(const int64_t start, fields.integer("start"));
    ATOM_ASSIGN_OR_RETURN(const int64_t stop, fields.integer("stop"));
    if (stage.content.empty() || utf8_length(stage.content[0]) != stage.content.size() ||
        start < 0 || stop < 0) {
      return make_error(ErrorCode::kInvalidArgument,
                        "{}: content is one character, start and stop are counts", fields.path());
    }
    stage.start = static_cast<size_t>(start);
    stage.stop = static_cast<size_t>(stop);
    return out.add(std::move(stage), type);
  }
  if (type == "Metaspace") {
    ATOM_ASSIGN_OR_RETURN(const MetaspaceStage meta, read_metaspace(fields));
    return out.add(
        MetaspaceDecodeStage{.replacement = meta.replacement,
                             .strip_first = meta.prepend != MetaspaceStage::Prepend::kNever},
        type);
  }
  return unknown_type(fields, type,
                      "Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace");
}

// The ids of one piece {"SpecialToken": {"id": name}} of a template.
Status append_special(const JsonFields& fields, const json::value& special_token,
                      const std::string& path, std::vector<int32_t>& out) {
  ATOM_ASSIGN_OR_RETURN(const JsonFields token,
                        JsonFields::of(special_token, path + ".SpecialToken"));
  ATOM_ASSIGN_OR_RETURN(const std::string name, token.string("id"));
  const json::value* table = fields.find("special_tokens");
  const json::value* entry =
      table != nullptr && table->is_object() ? table->get_object().if_contains(name) : nullptr;
  if (entry == nullptr) {
    return make_error(ErrorCode::kInvalidArgument, "{}: \"{}\" is not in special_tokens", path,
                      name.substr(0, 100));
  }
  const std::string entry_path = fields.path_of("special_tokens") + "." + name;
  ATOM_ASSIGN_OR_RETURN(const JsonFields entry_fields, JsonFields::of(*entry, entry_path));
  ATOM_ASSIGN_OR_RETURN(const json::array* ids, entry_fields.array("ids"));
  for (const json::value& id : *ids) {
    if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() > Vocab::kMaxId) {
      return make_error(ErrorCode::kInvalidArgument, "{}.ids holds something that is not an id",
                        entry_path);
    }
    out.push_back(static_cast<int32_t>(id.get_int64()));
  }
  return {};
}

Status read_template(const JsonFields& fields, std::vector<int32_t>& prefix,
                     std::vector<int32_t>& suffix) {
  ATOM_ASSIGN_OR_RETURN(const json::array* pieces, fields.array("single"));
  int sequences = 0;
  std::vector<int32_t> before, after;
  for (size_t i = 0; i < pieces->size(); ++i) {
    const std::string path = str_format("{}.single[{}]", fields.path(), i);
    ATOM_ASSIGN_OR_RETURN(const JsonFields piece, JsonFields::of((*pieces)[i], path));
    if (piece.find("Sequence") != nullptr) {
      ++sequences;
    } else if (const json::value* special = piece.find("SpecialToken")) {
      ATOM_RETURN_IF_ERROR(append_special(fields, *special, path, sequences > 0 ? after : before));
    } else {
      return make_error(ErrorCode::kInvalidArgument, "{} is neither Sequence nor SpecialToken",
                        path);
    }
  }
  if (sequences != 1) {
    return make_error(ErrorCode::kUnsupported,
                      "{}.single holds the text {} times; supported is once", fields.path(),
                      sequences);
  }
  prefix.insert(prefix.begin(), before.begin(), before.end());
  suffix.insert(suffix.end(), after.begin(), after.end());
  return {};
}

}  // namespace

Status read_normalizer(const json::object& root, Normalizer& out) {
  return read_chain(
      root, "normalizer", "normalizers",
      [&](const JsonFields& f, std::string_view type) { return read_norm_step(f, type, out); });
}

Status read_pre_tokenizer(const json::object& root, PreTokenizer& out, bool& byte_level) {
  byte_level = false;
  return read_chain(root, "pre_tokenizer", "pretokenizers",
                    [&](const JsonFields& f, std::string_view type) {
                      return read_pre_stage(f, type, out, byte_level);
                    });
}

Status read_decoder(const json::object& root, Decoder& out) {
  const json::value* value = root.if_contains("decoder");
  if (value == nullptr || value->is_null()) return out.add(JoinStage{}, "none");
  return read_chain(root, "decoder", "decoders", [&](const JsonFields& f, std::string_view type) {
    return read_decode_stage(f, type, out);
  });
}

Status read_post_processor(const json::object& root, std::vector<int32_t>& prefix,
                           std::vector<int32_t>& suffix) {
  return read_chain(root, "post_processor", "processors",
                    [&](const JsonFields& f, std::string_view type) -> Status {
                      if (type == "ByteLevel") return {};  // offsets only
                      if (type == "TemplateProcessing") return read_template(f, prefix, suffix);
                      return unknown_type(f, type, "Sequence, ByteLevel, TemplateProcessing");
                    });
}

}  // namespace atom
