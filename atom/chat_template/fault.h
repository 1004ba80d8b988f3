// Fault: how a template error travels inside this room, from the depth of a recursion to
// ChatTemplate, which turns it into a TemplateError. It never leaves the room.
#pragma once

#include <string>
#include <utility>

#include "atom/chat_template/chat_template.h"
#include "atom/core/format.h"

namespace atom::jinja {

struct Fault {
  TemplateError error;
};

// throw_fault(TemplateError::Kind::kRuntime, 0, "..."): line 0 means "where the interpreter
// stands".
[[noreturn]] inline void throw_fault(TemplateError::Kind kind, int line, std::string message) {
  throw Fault{{.kind = kind, .message = std::move(message), .line = line}};
}

template <class... Args>
[[noreturn]] void raise_error(fmt::format_string<Args...> text, Args&&... args) {
  throw_fault(TemplateError::Kind::kRuntime, 0, str_format(text, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void raise_limit(fmt::format_string<Args...> text, Args&&... args) {
  throw_fault(TemplateError::Kind::kLimit, 0, str_format(text, std::forward<Args>(args)...));
}

}  // namespace atom::jinja
