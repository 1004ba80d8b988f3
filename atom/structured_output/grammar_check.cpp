#include "atom/structured_output/grammar_check.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cctype>
#include <cstdlib>
#include <string_view>

#include "atom/core/json.h"
#include "atom/structured_output/exclusive_schemas.h"
#include "atom/structured_output/schema_keywords.h"

namespace atom {
namespace {

// Does a regular expression name a character that JSON strings hold as an escape only? The grammar
// follows patterns on the text as written, where such a character would end or break the string.
bool names_escaped_character(std::string_view pattern) {
  const auto escaped = [](unsigned long code) {
    return code < 0x20 || code == '"' || code == 0x5c;
  };
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] != 0x5c) {
      if (escaped(static_cast<unsigned char>(pattern[i]))) return true;
      continue;
    }
    if (++i == pattern.size()) return true;
    constexpr std::string_view kNames = "nrtfv0c\"\\";
    if (kNames.find(pattern[i]) != std::string_view::npos) return true;
    if (pattern[i] != 'x' && pattern[i] != 'u') continue;
    const size_t digits = pattern[i] == 'x' ? 2 : 4;
    const std::string code(pattern.substr(i + 1, digits));
    if (code.starts_with('{') || escaped(std::strtoul(code.c_str(), nullptr, 16))) return true;
  }
  return false;
}

namespace json = boost::json;

constexpr size_t kMaxQuoted = 64;  // characters of a user's text in a message

std::unexpected<Error> refuse(std::string message) {
  return std::unexpected(
      Error{.code = ErrorCode::kInvalidArgument, .message = std::move(message), .param = {}});
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text.substr(0, kMaxQuoted)) {
    const auto byte = static_cast<unsigned char>(c);
    out += byte < 0x20 || byte >= 0x7f ? '?' : c;
  }
  return out + (text.size() > kMaxQuoted ? "...\"" : "\"");
}

std::string printable(std::string_view name) {
  const std::string out = quoted(name);
  return out.substr(1, out.size() - 2);
}

// The place of a member of the schema at `path`; of a long one its end. With a quoted text, a
// message holds at most 128 characters of the user's.
std::string member_of(const std::string& path, std::string_view name) {
  constexpr size_t kMaxPlace = 60;
  std::string out = path + "." + printable(name);
  if (out.size() > kMaxPlace) out.replace(0, out.size() - kMaxPlace + 3, "...");
  return out;
}

template <class List>
bool has(const List& list, std::string_view name) {
  return std::ranges::find(list, name) != std::end(list);
}

Status check_regex(std::string_view regex, const GrammarLimits& limits);

class SchemaCheck {
 public:
  SchemaCheck(const GrammarLimits& limits, bool exact) : limits_(limits), exact_(exact) {}

  // A whole schema: its references start from it.
  Status check_root(json::value& schema, const std::string& path) {
    rewritten_ |= require_discriminators(schema);
    const json::value original = schema;
    root_ = &original;
    return check(schema, path);
  }
  bool rewritten() const { return rewritten_; }
  const std::vector<LengthBound>& bounds() const { return bounds_; }

 private:
  Status check(json::value& schema, const std::string& path) {
    if (schema.is_bool()) {
      return {};
    }
    if (!schema.is_object()) {
      return refuse(path + ": a schema must be an object or a boolean");
    }
    json::object& object = schema.get_object();
    ATOM_RETURN_IF_ERROR(check_forms(object, path));
    ATOM_RETURN_IF_ERROR(settle_one_of(object, path));
    if (exact_) {
      ATOM_RETURN_IF_ERROR(check_enforced(object, path));
    }
    bound_length(object);
    return check_inner(object, path);
  }

  // The library's own bounded strings hold raw control characters, and compiling one takes a
  // twentieth of a second for each of its characters.
  void bound_length(json::object& schema) {
    const json::value* const min = schema.if_contains("minLength");
    const json::value* const max = schema.if_contains("maxLength");
    if ((min == nullptr && max == nullptr) || schema.contains("pattern") ||
        schema.contains("format") || !has(types_of(schema), "string")) {
      return;
    }
    const LengthBound bound{.min = min != nullptr ? min->get_int64() : 0,
                            .max = max != nullptr ? max->get_int64() : limits_.max_repetitions};
    const auto found = std::ranges::find(bounds_, bound);
    if (bound.min > bound.max || (found == bounds_.end() && bounds_.size() == kMaxLengthBounds)) {
      return;
    }
    const int64_t index = found - bounds_.begin();
    if (found == bounds_.end()) bounds_.push_back(bound);
    schema.erase("minLength");
    schema.erase("maxLength");
    schema["pattern"] = bounded_string_pattern(index);
    rewritten_ = true;
  }

  // The library takes a oneOf of which it cannot tell the branches apart for an anyOf.
  Status settle_one_of(json::object& schema, const std::string& path) {
    const json::value* const branches = schema.if_contains("oneOf");
    if (branches == nullptr || !branches->is_array() || schema.contains("anyOf")) {
      return {};
    }
    if (exact_ && !are_exclusive(branches->get_array(), *root_)) {
      return refuse(path +
                    ".oneOf: its branches may overlap; give each a required property with a const "
                    "of its own, or use anyOf");
    }
    json::value moved = std::move(schema.at("oneOf"));
    schema.erase("oneOf");
    schema["anyOf"] = std::move(moved);
    rewritten_ = true;
    return {};
  }

  // Kinds of values that the library would take on trust.
  Status check_forms(const json::object& schema, const std::string& path) {
    for (const auto& [key, value] : schema) {
      if (has(kCounts, key)) {
        const int64_t* const count = value.if_int64();
        if (count == nullptr || *count < 0 || *count > limits_.max_repetitions) {
          return refuse(str_format("{}.{} must be an integer from 0 to {}", path,
                                   std::string_view(key), limits_.max_repetitions));
        }
      } else if (key == "pattern" || key == "format" || key == "$ref") {
        if (!value.is_string()) {
          return refuse(str_format("{}.{} must be a string", path, std::string_view(key)));
        }
      } else if (key == "required") {
        const json::array* const names = value.if_array();
        if (names == nullptr || !std::ranges::all_of(*names, [](const json::value& name) {
              return name.is_string();
            })) {
          return refuse(path + ".required must be an array of strings");
        }
      } else if (key == "type") {
        ATOM_RETURN_IF_ERROR(check_type(value, path));
      } else if (key == "enum" && (!value.is_array() || value.get_array().empty())) {
        return refuse(path + ".enum must be an array of at least one value");
      }
    }
    if (const json::value* const pattern = schema.if_contains("pattern")) {
      return check_pattern(pattern->get_string(), path + ".pattern");
    }
    if (const json::value* const ref = schema.if_contains("$ref")) {
      const std::string_view target = ref->get_string();
      if (target != "#" && !target.starts_with("#/")) {
        return refuse(
            str_format("{}.$ref: only references within the schema (\"#/...\") are "
                       "followed, got {}",
                       path, quoted(target)));
      }
    }
    return {};
  }

  Status check_type(const json::value& type, const std::string& path) {
    const auto known = [](const json::value& name) {
      return name.is_string() && std::ranges::find(kTypes, std::string_view(name.get_string()),
                                                   &TypeKeywords::type) != kTypes.end();
    };
    if (type.is_array() ? type.get_array().empty() || !std::ranges::all_of(type.get_array(), known)
                        : !known(type)) {
      return refuse(path +
                    ".type must be one, or an array, of object, array, string, integer, "
                    "number, boolean and null");
    }
    return {};
  }

  Status check_pattern(std::string_view pattern, const std::string& path) {
    if (++num_patterns_ > limits_.max_patterns) {
      return refuse(
          str_format("{}: a schema may have at most {} patterns", path, limits_.max_patterns));
    }
    if (Status status = check_regex(pattern, limits_); !status) {
      return refuse(path + ": " + status.error().message);
    }
    if (names_escaped_character(pattern)) {
      return refuse(path +
                    ": patterns that name a quote, a backslash or a control character are not "
                    "enforced: JSON writes these as escapes");
    }
    return {};
  }

  Status check_enforced(const json::object& schema, const std::string& path) {
    const Driver* driver = nullptr;
    for (const Driver& candidate : kDrivers) {
      if (driver == nullptr && schema.contains(candidate.keyword)) {
        driver = &candidate;
      }
    }
    const std::vector<std::string_view> types = types_of(schema);
    for (const auto& [key, value] : schema) {
      const std::string_view name = key;
      if (!has(kRestricting, name)) {
        continue;
      }
      if (driver != nullptr && name != driver->keyword && !has(driver->beside, name)) {
        return refuse(str_format("{}: {} beside {} is not supported", path, name, driver->keyword));
      }
      if (driver != nullptr || name == "type") {
        continue;
      }
      const bool enforced = std::ranges::any_of(kTypes, [&](const TypeKeywords& row) {
        return has(types, row.type) && has(row.keywords, name);
      });
      const bool of_some_type = std::ranges::any_of(
          kTypes, [&](const TypeKeywords& row) { return has(row.keywords, name); });
      if (!enforced && (!of_some_type || types.empty())) {
        return refuse(of_some_type
                          ? str_format("{}: {} is only supported together with a type", path, name)
                          : str_format("{}: {} is not supported", path, name));
      }
    }
    if (driver != nullptr && driver->keyword == "allOf" && schema.at("allOf").is_array() &&
        schema.at("allOf").get_array().size() > 1) {
      return refuse(path + ": allOf of more than one schema is not supported");
    }
    return {};
  }

  // The types a schema names, or that the library infers for it.
  static std::vector<std::string_view> types_of(const json::object& schema) {
    std::vector<std::string_view> out;
    if (const json::value* const type = schema.if_contains("type")) {
      if (type->is_string()) {
        out.push_back(type->get_string());
      } else {
        for (const json::value& name : type->get_array()) {
          out.push_back(name.get_string());
        }
      }
    } else if (schema.contains("properties") || schema.contains("additionalProperties") ||
               schema.contains("unevaluatedProperties")) {
      out.push_back("object");
    } else if (schema.contains("items") || schema.contains("prefixItems") ||
               schema.contains("unevaluatedItems")) {
      out.push_back("array");
    }
    return out;
  }

  Status check_inner(json::object& schema, const std::string& path) {
    for (auto& [key, value] : schema) {
      const std::string place = member_of(path, key);
      if (has(kSchemas, key)) {
        ATOM_RETURN_IF_ERROR(check(value, place));
      } else if (has(kSchemaLists, key)) {
        ATOM_RETURN_IF_ERROR(check_list(value, place));
      } else if (has(kSchemaMaps, key)) {
        if (!value.is_object()) {
          return refuse(place + " must be an object");
        }
        for (auto& [name, inner] : value.get_object()) {
          if (key == "patternProperties") {
            ATOM_RETURN_IF_ERROR(check_pattern(name, place));
          }
          ATOM_RETURN_IF_ERROR(check(inner, member_of(place, name)));
        }
      }
    }
    return {};
  }

  Status check_list(json::value& schemas, const std::string& place) {
    if (!schemas.is_array() || schemas.get_array().empty()) {
      return refuse(place + " must be an array of at least one schema");
    }
    for (size_t i = 0; i < schemas.get_array().size(); ++i) {
      ATOM_RETURN_IF_ERROR(check(schemas.get_array()[i], str_format("{}[{}]", place, i)));
    }
    return {};
  }

  const GrammarLimits& limits_;
  const bool exact_;
  const json::value* root_ = nullptr;
  int64_t num_patterns_ = 0;
  std::vector<LengthBound> bounds_;
  bool rewritten_ = false;
};

// Nesting of brackets and the numbers in braces. Neither knows the exact syntax: what stands in
// quotes or classes counts too, which only makes the limits a little stricter.
Status check_brackets(std::string_view text, const GrammarLimits& limits) {
  int64_t depth = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == '(') {
      if (++depth > limits.max_depth) {
        return refuse(str_format("more than {} nested groups", limits.max_depth));
      }
    } else if (text[i] == ')') {
      depth -= depth > 0 ? 1 : 0;
    } else if (text[i] == '{') {
      for (++i; i < text.size() && (std::isdigit(static_cast<unsigned char>(text[i])) != 0 ||
                                    text[i] == ',' || text[i] == ' ');
           ++i) {
        int64_t count = 0;
        for (; i < text.size() && std::isdigit(static_cast<unsigned char>(text[i])) != 0; ++i) {
          count = count * 10 + (text[i] - '0');
          if (count > limits.max_repetitions) {
            return refuse(str_format("more than {} repetitions", limits.max_repetitions));
          }
        }
        if (i >= text.size() || text[i] == '}') {
          break;
        }
      }
    }
  }
  return {};
}

Status check_regex(std::string_view regex, const GrammarLimits& limits) {
  if (static_cast<int64_t>(regex.size()) > limits.max_regex_bytes) {
    return refuse(str_format("a regular expression may have at most {} bytes, not {}",
                             limits.max_regex_bytes, regex.size()));
  }
  return check_brackets(regex, limits);
}

// The schemas, expressions and grammars within a structural tag, wherever they stand.
Status check_tag(json::value& value, const std::string& path, SchemaCheck& schemas,
                 const GrammarLimits& limits) {
  if (value.is_array()) {
    for (size_t i = 0; i < value.get_array().size(); ++i) {
      ATOM_RETURN_IF_ERROR(
          check_tag(value.get_array()[i], str_format("{}[{}]", path, i), schemas, limits));
    }
  }
  if (!value.is_object()) {
    return {};
  }
  for (auto& [key, inner] : value.get_object()) {
    const std::string place = member_of(path, key);
    Status status;
    if (key == "json_schema" || key == "schema") {
      status = schemas.check_root(inner, place);
    } else if (inner.is_string() && (key == "pattern" || key == "grammar")) {
      status = key == "pattern" ? check_regex(inner.get_string(), limits)
                                : check_brackets(inner.get_string(), limits);
    } else {
      status = check_tag(inner, place, schemas, limits);
    }
    ATOM_RETURN_IF_ERROR(status);
  }
  return {};
}

Result<json::value> parse(std::string_view text, const GrammarLimits& limits) {
  Result<json::value> value = parse_json(text, {.max_depth = static_cast<int>(limits.max_depth)});
  if (!value) {
    return refuse(value.error().message);
  }
  return value;
}

// An EBNF grammar that matches exactly one of the strings of a JSON array.
Result<std::string> choice_grammar(std::string_view choices) {
  ATOM_ASSIGN_OR_RETURN(const json::value value, parse(choices, {}));
  if (!value.is_array() || value.get_array().empty()) {
    return refuse("must be an array of at least one string");
  }
  std::string out = "root ::= ";
  for (const json::value& choice : value.get_array()) {
    if (!choice.is_string() || choice.get_string().empty()) {
      return refuse("every choice must be a string that is not empty");
    }
    out += out.ends_with(' ') ? "\"" : " | \"";
    for (const char c : choice.get_string()) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte == 0) {
        return refuse("a choice must not contain a NUL character");
      }
      if (byte < 0x20 || byte == 0x7f) {  // \u: \x would take the hexadecimal digits that follow
        out += str_format("\\u{:04x}", byte);
      } else {
        out += c == '"' || c == '\\' ? "\\" : "";
        out += c;
      }
    }
    out += '"';
  }
  return out;
}

}  // namespace

Result<CheckedGrammar> check_grammar(const GrammarSpec& spec, const GrammarLimits& limits) {
  if (static_cast<int64_t>(spec.text.size()) > limits.max_text_bytes) {
    return refuse(str_format("{} bytes are too many: at most {} are allowed", spec.text.size(),
                             limits.max_text_bytes));
  }
  if (spec.text.find('\0') != std::string::npos) {
    return refuse("must not contain a NUL character");
  }
  switch (spec.kind) {
    case GrammarSpec::Kind::kJsonObject:
      return CheckedGrammar{.text = R"({"type": "object"})", .bounds = {}};
    case GrammarSpec::Kind::kJsonSchema:
    case GrammarSpec::Kind::kStructuralTag: {
      ATOM_ASSIGN_OR_RETURN(json::value value, parse(spec.text, limits));
      SchemaCheck schemas(limits, spec.exact);
      if (spec.kind == GrammarSpec::Kind::kJsonSchema) {
        ATOM_RETURN_IF_ERROR(schemas.check_root(value, "$"));
      } else if (value.is_object()) {
        ATOM_RETURN_IF_ERROR(check_tag(value, "$", schemas, limits));
      } else {
        return refuse("must be an object");
      }
      return CheckedGrammar{.text = schemas.rewritten() ? json::serialize(value) : spec.text,
                            .bounds = schemas.bounds()};
    }
    case GrammarSpec::Kind::kRegex:
      ATOM_RETURN_IF_ERROR(check_regex(spec.text, limits));
      return CheckedGrammar{.text = spec.text, .bounds = {}};
    case GrammarSpec::Kind::kChoice: {
      ATOM_ASSIGN_OR_RETURN(std::string grammar, choice_grammar(spec.text));
      return CheckedGrammar{.text = std::move(grammar), .bounds = {}};
    }
    case GrammarSpec::Kind::kGrammar:
      ATOM_RETURN_IF_ERROR(check_brackets(spec.text, limits));
      return CheckedGrammar{.text = spec.text, .bounds = {}};
  }
  return refuse("unknown kind");
}

}  // namespace atom
