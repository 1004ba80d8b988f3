// Python's two ways to format text: "%s" % values and "{}".format(values).
#pragma once

#include "atom/chat_template/interpreter.h"

namespace atom::jinja {

Value percent_format(Interpreter& in, const Value& format, const Value& values);
Value brace_format(Interpreter& in, const Value& format, const CallArgs& args);

}  // namespace atom::jinja
