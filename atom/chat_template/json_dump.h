// The tojson filter: Python's json.dumps, byte for byte.
#pragma once

#include <string>

#include "atom/chat_template/interpreter.h"

namespace atom::jinja {

struct JsonStyle {
  bool ensure_ascii = false;
  bool pretty = false;  // one item a line, indented by `indent` a level
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};

std::string json_dump(Interpreter& in, const Value& v, const JsonStyle& style);

}  // namespace atom::jinja
