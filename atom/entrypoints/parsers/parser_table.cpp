#include "atom/entrypoints/parsers/parser_table.h"

#include "atom/entrypoints/parsers/tool_parsers.h"

namespace atom::parsers {
namespace {

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// <tool_call> with JSON in it: GLM and Qwen3-Coder use the tag around other forms.
bool is_hermes(std::string_view chat_template) {
  return has(chat_template, "<tool_call>") && !has(chat_template, "<arg_key>") &&
         !has(chat_template, "<function=");
}

bool is_llama3(std::string_view chat_template) {
  return has(chat_template, "ipython") && has(chat_template, "\"parameters\": ") &&
         has(chat_template, "<|start_header_id|>") && !has(chat_template, "<function=");
}

bool never(std::string_view) { return false; }
bool always(std::string_view) { return true; }

bool has_think_tag(std::string_view chat_template) { return has(chat_template, "</think>"); }

bool ends_with_think(std::string_view prompt) {
  const size_t end = prompt.find_last_not_of(" \t\r\n");
  return end != std::string_view::npos && prompt.substr(0, end + 1).ends_with("<think>");
}

constexpr std::string_view kLlama3Tokens[] = {"<|python_tag|>"};

constexpr ToolFormat kToolFormats[] = {
    {"hermes", "qwen25", is_hermes, make_hermes_parser, {}},
    {"llama3_json", "llama3", is_llama3, make_llama3_json_parser, kLlama3Tokens},
};

constexpr ReasoningFormat kReasoningFormats[] = {
    {"qwen3", "think", has_think_tag, ends_with_think, make_think_parser},
    // Everything before </think> is reasoning, whether or not there was an opening tag.
    {"deepseek_r1", "", never, always, make_think_parser},
};

template <class Format>
Result<const Format*> find(std::span<const Format> formats, std::string_view what,
                           std::string_view name, std::string_view chat_template) {
  if (name == "none") return nullptr;
  std::string allowed = "auto, none";
  for (const Format& format : formats) {
    const bool named = name == format.name || (name == format.alias && !name.empty());
    if (named || (name == "auto" && format.matches(chat_template))) return &format;
    allowed += ", ";
    allowed += format.name;
  }
  if (name == "auto") return nullptr;
  return make_error(ErrorCode::kInvalidArgument, "{}: no such {}; allowed: {}", name, what,
                    allowed);
}

}  // namespace

std::span<const ToolFormat> tool_formats() { return kToolFormats; }
std::span<const ReasoningFormat> reasoning_formats() { return kReasoningFormats; }

Result<const ToolFormat*> find_tool_format(std::string_view name, std::string_view chat_template) {
  return find(tool_formats(), "tool-call parser", name, chat_template);
}

Result<const ReasoningFormat*> find_reasoning_format(std::string_view name,
                                                     std::string_view chat_template) {
  return find(reasoning_formats(), "reasoning parser", name, chat_template);
}

}  // namespace atom::parsers
