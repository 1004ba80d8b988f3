#include "atom/model_loader/json_fields.h"

#include <cmath>

#include "atom/core/json.h"
#include "atom/model_loader/model_family.h"
#include "atom/model_loader/text.h"

namespace atom {
namespace json = boost::json;
namespace {

bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-'; }

// "KEY: found NaN, ..." when the text holds a bare NaN or Infinity, which strict JSON has no word
// for.
std::optional<Error> find_non_finite(std::string_view text) {
  std::string_view last_string;
  for (size_t pos = 0; pos < text.size();) {
    if (text[pos] == '"') {
      size_t end = pos + 1;
      while (end < text.size() && text[end] != '"') {
        end += text[end] == '\\' ? 2 : 1;
      }
      last_string = text.substr(pos + 1, std::min(end, text.size()) - pos - 1);
      pos = end + 1;
    } else if (is_word(text[pos])) {
      size_t end = pos;
      while (end < text.size() && is_word(text[end])) {
        ++end;
      }
      const std::string_view word = text.substr(pos, end - pos);
      if (word == "NaN" || word == "Infinity" || word == "-Infinity") {
        return Error{.code = ErrorCode::kInvalidArgument,
                     .message = str_format(
                         "{}: not a number JSON allows (found {}, expected a finite number)",
                         printable(last_string), word),
                     .param = {}};
      }
      pos = end;
    } else {
      ++pos;
    }
  }
  return std::nullopt;
}

std::unexpected<Error> wrong_type(const JsonFields& fields, std::string_view key,
                                  const json::value& value, const char* expected) {
  return make_error(ErrorCode::kInvalidArgument, "{}{}: wrong type (found {}, expected {})",
                    fields.prefix, key, describe_json(value), expected);
}

}  // namespace

Result<json::object> parse_json_object(std::string_view text) {
  if (const std::string what = recognise_foreign_content(std::as_bytes(std::span(text)));
      !what.empty()) {
    return make_error(ErrorCode::kInvalidArgument, "{}", what);
  }
  if (text.starts_with("\xef\xbb\xbf")) {
    return make_error(ErrorCode::kInvalidArgument,
                      "invalid JSON at byte 0: the file starts with a byte order mark");
  }
  auto value = parse_json(text);
  if (!value) {
    if (auto non_finite = find_non_finite(text)) return std::unexpected(std::move(*non_finite));
    value.error().message = printable(value.error().message);
    return std::unexpected(std::move(value.error()));
  }
  if (!value->is_object()) {
    return make_error(ErrorCode::kInvalidArgument, "not a JSON object (found {})",
                      describe_json(*value));
  }
  return std::move(value->as_object());
}

std::string describe_json(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return "null";
    case json::kind::array:
      return "a list";
    case json::kind::object:
      return "an object";
    case json::kind::string:
      return "\"" + printable(std::string_view(value.get_string()), 60) + "\"";
    case json::kind::double_:
      return str_format("{}", value.get_double());
    case json::kind::int64:
      return str_format("{}", value.get_int64());
    case json::kind::uint64:
      return str_format("{}", value.get_uint64());
    case json::kind::bool_:
      return value.get_bool() ? "true" : "false";
  }
  return "?";
}

const json::value* json_field(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

Result<std::optional<int64_t>> JsonFields::integer(std::string_view key, int64_t min,
                                                   int64_t max) const {
  const json::value* value = json_field(object, key);
  if (value == nullptr) return std::nullopt;
  if (value->is_uint64()) {  // boost uses it only above INT64_MAX
    return make_error(ErrorCode::kInvalidArgument,
                      "{}{}: out of range (found {}, expected {} to {})", prefix, key,
                      value->get_uint64(), min, max);
  }
  if (!value->is_int64()) return wrong_type(*this, key, *value, "an integer");
  ATOM_RETURN_IF_ERROR(check_range(prefix + std::string(key), value->get_int64(), min, max));
  return value->get_int64();
}

Result<std::optional<double>> JsonFields::number(std::string_view key) const {
  const json::value* value = json_field(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) return wrong_type(*this, key, *value, "a number");
  const auto number = value->to_number<double>();
  if (!std::isfinite(number)) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{}{}: not finite (found {}, expected a finite number)", prefix, key, number);
  }
  return number;
}

Result<std::optional<double>> JsonFields::positive_number(std::string_view key) const {
  ATOM_ASSIGN_OR_RETURN(const std::optional<double> value, number(key));
  if (value && *value <= 0) {
    return make_error(ErrorCode::kInvalidArgument,
                      "{}{}: out of range (found {}, expected a positive number)", prefix, key,
                      *value);
  }
  return value;
}

Result<std::optional<bool>> JsonFields::boolean(std::string_view key) const {
  const json::value* value = json_field(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_bool()) return wrong_type(*this, key, *value, "true or false");
  return value->get_bool();
}

Result<std::optional<std::string>> JsonFields::string(std::string_view key) const {
  const json::value* value = json_field(object, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) return wrong_type(*this, key, *value, "a string");
  return std::string(std::string_view(value->get_string()));
}

}  // namespace atom
