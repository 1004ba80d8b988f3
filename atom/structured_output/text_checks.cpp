#include "atom/structured_output/text_checks.h"

#include <boost/json.hpp>
#include <cctype>
#include <utility>

#include "atom/core/json.h"

namespace atom {

namespace json = boost::json;

std::unexpected<Error> refuse(std::string message) {
  return std::unexpected(
      Error{.code = ErrorCode::kInvalidArgument, .message = std::move(message), .param = {}});
}

Result<json::value> parse_spec(std::string_view text, const GrammarLimits& limits) {
  Result<json::value> value = parse_json(text, {.max_depth = static_cast<int>(limits.max_depth)});
  if (!value) {
    return refuse(value.error().message);
  }
  return value;
}

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

Result<std::string> choice_grammar(std::string_view choices) {
  ATOM_ASSIGN_OR_RETURN(const json::value value, parse_spec(choices, {}));
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

}  // namespace atom
