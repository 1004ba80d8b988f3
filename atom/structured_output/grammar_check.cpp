#include "atom/structured_output/grammar_check.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <optional>
#include <string_view>

#include "atom/core/printable.h"
#include "atom/structured_output/exclusive_schemas.h"
#include "atom/structured_output/json_pattern.h"
#include "atom/structured_output/schema_keywords.h"
#include "atom/structured_output/text_checks.h"

namespace atom {
namespace {

namespace json = boost::json;

constexpr size_t kMaxQuoted = 64;  // characters of a user's text in a message

std::string quoted(std::string_view text) { return '"' + printable(text, kMaxQuoted) + '"'; }

// The place of a member of the schema at `path`; of a long one its end. With a quoted text, a
// message holds at most 128 characters of the user's.
std::string member_of(const std::string& path, std::string_view name) {
  constexpr size_t kMaxPlace = 60;
  std::string out = path + "." + printable(name, kMaxQuoted);
  if (out.size() <= kMaxPlace) return out;
  size_t begin = out.size() - kMaxPlace + 3;
  while (utf8_size(std::string_view(out).substr(begin)) == 0) ++begin;
  return "..." + out.substr(begin);
}

template <class List>
bool has(const List& list, std::string_view name) {
  return std::ranges::find(list, name) != std::end(list);
}

class SchemaCheck {
 public:
  SchemaCheck(const GrammarLimits& limits, bool exact) : limits_(limits), exact_(exact) {}

  // A whole schema: its references start from it.
  Status check_root(json::value& schema, const std::string& path,
                    StringForm form = StringForm::kJson) {
    form_ = form;
    rewritten_ |= require_discriminators(schema);
    const json::value original = schema;
    root_ = &original;
    return check(schema, path);
  }
  bool rewritten() const { return rewritten_; }
  const std::vector<LengthBound>& bounds() const { return bounds_; }
  const std::map<std::string, std::string>& patterns() const { return patterns_; }

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
    ATOM_RETURN_IF_ERROR(rewrite_pattern(object, path));
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
    const std::optional<std::string> pattern =
        bounded({.min = min != nullptr ? min->get_int64() : 0,
                 .max = max != nullptr ? max->get_int64() : limits_.max_repetitions},
                kUnescaped);
    if (!pattern) return;
    schema.erase("minLength");
    schema.erase("maxLength");
    schema["pattern"] = *pattern;
    rewritten_ = true;
  }

  std::optional<std::string> bounded(LengthBound bound, std::string_view char_class) {
    const auto found = std::ranges::find(bounds_, bound);
    if (bound.min > bound.max || (found == bounds_.end() && bounds_.size() == kMaxLengthBounds)) {
      return std::nullopt;
    }
    const int64_t index = found - bounds_.begin();
    if (found == bounds_.end()) bounds_.push_back(bound);
    return bounded_string_pattern(index, char_class);
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
    if (const json::value* const ref = schema.if_contains("$ref")) {
      const std::string_view target = ref->get_string();
      if (target != "#" && !target.starts_with("#/")) {
        return refuse(
            str_format("{}.$ref: only references within the schema (\"#/...\") are "
                       "followed, got {}",
                       path, quoted(target)));
      }
      if (!leads_to_a_schema(target)) {
        return refuse(str_format("{}.$ref: no schema stands at {}", path, quoted(target)));
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

  Result<JsonPattern> checked_pattern(std::string_view pattern, const std::string& path) {
    if (++num_patterns_ > limits_.max_patterns) {
      return refuse(
          str_format("{}: a schema may have at most {} patterns", path, limits_.max_patterns));
    }
    Status sized = check_regex(pattern, limits_);
    Result<JsonPattern> out =
        sized ? json_string_pattern(pattern, form_) : std::unexpected(std::move(sized.error()));
    if (!out) return refuse(path + ": " + out.error().message);
    return out;
  }

  // What the schema says instead. The library would not take the escapes: a class of the same size
  // stands for them, with a _ in it, which no pattern that json_pattern.h wrote has.
  std::string stand_in(const JsonPattern& pattern) {
    if (!pattern.escapes) return pattern.text;
    std::string name = str_format("[_{}", patterns_.size());
    name += std::string(pattern.text.size() - name.size() - 1, 'a') + "]";
    patterns_[name] = pattern.text;
    return name;
  }

  std::string followed(const JsonPattern& pattern) {
    constexpr int64_t kMinCounted = 8;
    if (!pattern.counted_class.empty() && form_ == StringForm::kJson &&
        std::max(pattern.min, pattern.max) > kMinCounted) {
      const std::optional<std::string> counted = bounded(
          {.min = pattern.min, .max = pattern.max < 0 ? limits_.max_repetitions : pattern.max},
          pattern.counted_class);
      if (counted) return *counted;
    }
    return stand_in(pattern);
  }

  // Where a keyword need not be enforced, a pattern that cannot be is left out.
  Status rewrite_pattern(json::object& schema, const std::string& path) {
    const json::value* const format = schema.if_contains("format");
    const auto known = std::ranges::find_if(kFormats, [&](const Format& row) {
      return format != nullptr && format->get_string() == row.name;
    });
    const bool enforced = known != kFormats.end();
    if (enforced && exact_ && schema.contains("pattern"))
      return refuse(path + ": pattern beside format is not supported");
    const json::value* const given = schema.if_contains("pattern");
    if (given == nullptr && !(enforced && !known->pattern.empty())) return {};
    const std::string pattern(given != nullptr ? std::string_view(given->get_string())
                                               : known->pattern);
    rewritten_ = true;
    Result<JsonPattern> safe = checked_pattern(pattern, path + ".pattern");
    if (!safe && exact_) return std::unexpected(std::move(safe.error()));
    schema.erase("pattern");
    if (enforced) schema.erase("format");
    if (safe) schema["pattern"] = followed(*safe);
    return {};
  }

  // Names that become the same share one schema: the library reads the last.
  Status rewrite_names(json::object& properties, const std::string& place) {
    json::object renamed;
    for (auto& [name, schema] : properties) {
      Result<JsonPattern> safe = checked_pattern(name, place);
      if (safe) {
        renamed[stand_in(*safe)] = std::move(schema);
      } else if (exact_) {
        return std::unexpected(std::move(safe.error()));
      }
    }
    properties = std::move(renamed);
    rewritten_ = true;
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
        ATOM_RETURN_IF_ERROR(check_map(value, place));
        if (key == "patternProperties") {
          ATOM_RETURN_IF_ERROR(rewrite_names(value.get_object(), place));
        }
      } else if (key == kComponents.first && value.is_object()) {
        json::value* const schemas = value.get_object().if_contains(kComponents.second);
        if (schemas != nullptr)
          ATOM_RETURN_IF_ERROR(check_map(*schemas, member_of(place, kComponents.second)));
      }
    }
    return {};
  }

  Status check_map(json::value& schemas, const std::string& place) {
    if (!schemas.is_object()) {
      return refuse(place + " must be an object");
    }
    for (auto& [name, inner] : schemas.get_object()) {
      ATOM_RETURN_IF_ERROR(check(inner, member_of(place, name)));
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
  StringForm form_ = StringForm::kJson;
  const json::value* root_ = nullptr;
  int64_t num_patterns_ = 0;
  std::vector<LengthBound> bounds_;
  std::map<std::string, std::string> patterns_;
  bool rewritten_ = false;
};

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
  const json::value* const style = value.get_object().if_contains("style");
  const json::value* const type = value.get_object().if_contains("type");
  const bool is_json =
      (style == nullptr || *style == "json") && (type == nullptr || *type != "qwen_xml_parameter");
  for (auto& [key, inner] : value.get_object()) {
    const std::string place = member_of(path, key);
    Status status;
    if (key == "json_schema" || key == "schema") {
      status = schemas.check_root(inner, place, is_json ? StringForm::kJson : StringForm::kPlain);
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
      return CheckedGrammar{.text = R"({"type": "object"})", .bounds = {}, .patterns = {}};
    case GrammarSpec::Kind::kJsonSchema:
    case GrammarSpec::Kind::kStructuralTag: {
      ATOM_ASSIGN_OR_RETURN(json::value value, parse_spec(spec.text, limits));
      SchemaCheck schemas(limits, spec.exact);
      if (spec.kind == GrammarSpec::Kind::kJsonSchema) {
        ATOM_RETURN_IF_ERROR(schemas.check_root(value, "$"));
      } else if (value.is_object()) {
        ATOM_RETURN_IF_ERROR(check_tag(value, "$", schemas, limits));
      } else {
        return refuse("must be an object");
      }
      return CheckedGrammar{.text = schemas.rewritten() ? json::serialize(value) : spec.text,
                            .bounds = schemas.bounds(),
                            .patterns = schemas.patterns()};
    }
    case GrammarSpec::Kind::kRegex:
      ATOM_RETURN_IF_ERROR(check_regex(spec.text, limits));
      return CheckedGrammar{.text = spec.text, .bounds = {}, .patterns = {}};
    case GrammarSpec::Kind::kChoice: {
      ATOM_ASSIGN_OR_RETURN(std::string grammar, choice_grammar(spec.text));
      return CheckedGrammar{.text = std::move(grammar), .bounds = {}, .patterns = {}};
    }
    case GrammarSpec::Kind::kGrammar:
      ATOM_RETURN_IF_ERROR(check_brackets(spec.text, limits));
      return CheckedGrammar{.text = spec.text, .bounds = {}, .patterns = {}};
  }
  return refuse("unknown kind");
}

}  // namespace atom
