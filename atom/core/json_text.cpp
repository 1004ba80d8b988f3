#include "atom/core/json_text.h"

#include <boost/json.hpp>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <string_view>

namespace atom {
namespace json = boost::json;
namespace {

void append(std::string& out, const json::value& value);

void append(std::string& out, const json::array& items) {
  out += '[';
  bool first = true;
  for (const json::value& item : items) {
    if (!first) out += ", ";
    first = false;
    append(out, item);
  }
  out += ']';
}

void append(std::string& out, const json::object& members) {
  out += '{';
  bool first = true;
  for (const auto& [key, value] : members) {
    if (!first) out += ", ";
    first = false;
    out += json::serialize(key);
    out += ": ";
    append(out, value);
  }
  out += '}';
}

void append(std::string& out, const json::value& value) {
  if (value.is_object()) {
    append(out, value.get_object());
  } else if (value.is_array()) {
    append(out, value.get_array());
  } else if (value.is_double()) {
    append_json_number(out, value.get_double());
  } else {
    out += json::serialize(value);
  }
}

}  // namespace

void append_json_number(std::string& out, double value) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  char buffer[64];
  char* const end = buffer + sizeof(buffer);
  // Written with an exponent first, to see it; Python's repr() has none from 1e-4 to below 1e16.
  const std::string_view exact(
      buffer, std::to_chars(buffer, end, value, std::chars_format::scientific).ptr);
  const int exponent = std::atoi(std::string(exact.substr(exact.find('e') + 1)).c_str());
  if (exponent < -4 || exponent >= 16) {
    out += exact;
    return;
  }
  const std::string_view plain(buffer,
                               std::to_chars(buffer, end, value, std::chars_format::fixed).ptr);
  out += plain;
  if (plain.find('.') == std::string_view::npos) out += ".0";
}

std::string json_text(const json::value& value) {
  std::string out;
  append(out, value);
  return out;
}

}  // namespace atom
