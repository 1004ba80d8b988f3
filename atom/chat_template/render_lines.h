// `atom render`: JSON lines in, one JSON line out for each, for people who debug chat templates.
// In:  {"template": text | "model": dir, "messages", "tools", "add_generation_prompt",
//       "continue_final_message", "chat_template_kwargs", "bos_token", "eos_token", "now"}
//      or {"template", "context": {...}, "now"}.
// Out: {"text": ...} or {"error": {"kind": "raise|syntax|runtime|value|limit", "message", "line"}}.
// It loads no models itself: the caller passes a function that finds a model's template.
#pragma once

#include <functional>
#include <istream>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>

#include "atom/core/error.h"

namespace atom {

struct ModelTemplate {
  std::string text;
  std::string bos_token;  // empty when the model has none
  std::string eos_token;
};
using ModelTemplateLoader = std::function<Result<ModelTemplate>(const std::string& model)>;

// A bad line is an error object on its own line; the next one is read. Returns the exit status: 0,
// or 1 when the output cannot be written.
int run_render_lines(std::istream& in, std::ostream& out, const ModelTemplateLoader& load_model);

// Seconds since 1970 of "2026-11-22 12:34:56" (or "T" between, seconds, fraction and zone optional,
// or the date alone). It is wall time: a zone is read over.
std::optional<int64_t> parse_wall_time(std::string_view text);

}  // namespace atom
