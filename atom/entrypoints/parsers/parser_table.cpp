#include "atom/entrypoints/parsers/parser_table.h"

#include "atom/entrypoints/parsers/tool_parsers.h"

namespace atom::parsers {
namespace {

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// <tool_call> with JSON in it: GLM, Qwen3-Coder and MiniMax use the tag around other forms.
bool is_hermes(std::string_view chat_template) {
  return has(chat_template, "<tool_call>") && !has(chat_template, "<arg_key>") &&
         !has(chat_template, "<function=") && !has(chat_template, "minimax");
}

bool is_llama3(std::string_view chat_template) {
  return has(chat_template, "ipython") && has(chat_template, "\"parameters\": ") &&
         has(chat_template, "<|start_header_id|>") && !has(chat_template, "<function=");
}

bool is_glm(std::string_view chat_template) {
  return has(chat_template, "<tool_call>") && has(chat_template, "<arg_key>");
}

bool is_harmony(std::string_view chat_template) {
  return has(chat_template, "<|channel|>") && has(chat_template, "<|message|>");
}

bool is_deepseek_v3(std::string_view chat_template) {
  return has(chat_template, "<｜tool▁calls▁begin｜>") && has(chat_template, "```json");
}

bool is_deepseek_v31(std::string_view chat_template) {
  return has(chat_template, "<｜tool▁calls▁begin｜>") && !has(chat_template, "```json");
}

bool is_kimi_k2(std::string_view chat_template) {
  return has(chat_template, "<|tool_calls_section_begin|>");
}

bool is_mistral(std::string_view chat_template) {
  return has(chat_template, "[TOOL_CALLS]") && !has(chat_template, "[ARGS]");
}

bool is_mistral_args(std::string_view chat_template) {
  return has(chat_template, "[TOOL_CALLS]") && has(chat_template, "[ARGS]");
}

bool never(std::string_view) { return false; }

bool has_think_tag(std::string_view chat_template) { return has(chat_template, "</think>"); }

ReasoningStart by_last_tag(const ReasoningFormat& format, std::string_view prompt) {
  prompt = prompt.substr(0, prompt.find_last_not_of(" \t\r\n") + 1);
  if (prompt.ends_with(format.open)) return ReasoningStart::kInside;
  return prompt.ends_with(format.close) ? ReasoningStart::kNone : ReasoningStart::kPossible;
}

ReasoningStart always_inside(const ReasoningFormat&, std::string_view) {
  return ReasoningStart::kInside;
}

ReasoningStart never_in_text(const ReasoningFormat&, std::string_view) {
  return ReasoningStart::kNone;
}

constexpr std::string_view kLlama3Tokens[] = {"<|python_tag|>"};

constexpr std::string_view kHarmonyTokens[] = {"<|start|>",   "<|end|>",       "<|message|>",
                                               "<|channel|>", "<|constrain|>", "<|call|>",
                                               "<|return|>"};

// Where a vocabulary has them as ordinary tokens, they arrive as text.
constexpr std::string_view kDeepSeekTokens[] = {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
                                                "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>",
                                                "<｜tool▁sep｜>"};
constexpr std::string_view kKimiTokens[] = {"<|tool_calls_section_begin|>",
                                            "<|tool_calls_section_end|>", "<|tool_call_begin|>",
                                            "<|tool_call_end|>", "<|tool_call_argument_begin|>"};

constexpr std::string_view kMistralTokens[] = {"[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"};

constexpr ToolFormat kToolFormats[] = {
    {.name = "hermes",
     .alias = "qwen25",
     .matches = is_hermes,
     .make = make_hermes_parser,
     .form = {.trigger = "<tool_call>",
              .before_name = "<tool_call>\n{\"name\": \"",
              .before_arguments = "\", \"arguments\": ",
              .after_arguments = "}\n</tool_call>",
              .between = "\n"}},
    {.name = "llama3_json",
     .alias = "llama3",
     .matches = is_llama3,
     .make = make_llama3_json_parser,
     .form = {.trigger = "{\"name\": \"",
              .before_name = "{\"name\": \"",
              .before_arguments = "\", \"parameters\": ",
              .after_arguments = "}",
              .between = "; "},
     .control_tokens = kLlama3Tokens},
    {.name = "deepseek_v3",
     .alias = "deepseek_r1",
     .matches = is_deepseek_v3,
     .make = make_deepseek_parser,
     .form = {.trigger = "<｜tool▁calls▁begin｜>",
              .before_name = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>",
              .before_arguments = "\n```json\n",
              .after_arguments = "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
              .between = "\n"},
     .control_tokens = kDeepSeekTokens},
    {.name = "deepseek_v31",
     .alias = "deepseek_v3.1",
     .matches = is_deepseek_v31,
     .make = make_deepseek_parser,
     .form = {.trigger = "<｜tool▁calls▁begin｜>",
              .before_name = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
              .before_arguments = "<｜tool▁sep｜>",
              .after_arguments = "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
              .between = ""},
     .control_tokens = kDeepSeekTokens},
    {.name = "kimi_k2",
     .alias = "",
     .matches = is_kimi_k2,
     .make = make_kimi_parser,
     .form = {.trigger = "<|tool_calls_section_begin|>",
              .before_name = "<|tool_calls_section_begin|><|tool_call_begin|>functions.",
              .before_arguments = ":0<|tool_call_argument_begin|>",
              .after_arguments = "<|tool_call_end|><|tool_calls_section_end|>",
              .between = ""},
     .control_tokens = kKimiTokens},
    {.name = "glm45",
     .alias = "glm47",
     .matches = is_glm,
     .make = make_glm_parser,
     .form = {.trigger = "<tool_call>",
              .before_name = "<tool_call>",
              .before_arguments = "\n",
              .after_arguments = "\n</tool_call>",
              .between = "\n",
              .style = ArgumentStyle::kGlmXml}},
    // A grammar sees no control tokens: calls that it forces are bare JSON.
    {.name = "openai",
     .alias = "harmony",
     .matches = is_harmony,
     .make = make_harmony_parser,
     .form = {.trigger = "{\"name\": \"",
              .before_name = "{\"name\": \"",
              .before_arguments = "\", \"parameters\": ",
              .after_arguments = "}",
              .between = "; "},
     .control_tokens = kHarmonyTokens,
     .calls_are_text = false},
    {.name = "mistral",
     .alias = "mixtral",
     .matches = is_mistral,
     .make = make_mistral_parser,
     .form = {.trigger = "{\"name\": \"",
              .before_name = "{\"name\": \"",
              .before_arguments = "\", \"arguments\": ",
              .after_arguments = "}",
              .between = ", "},
     .control_tokens = kMistralTokens,
     .calls_are_text = false,
     .id_length = 9},
    {.name = "mistral_args",
     .alias = "mistral_v11",
     .matches = is_mistral_args,
     .make = make_mistral_args_parser,
     .form = {.trigger = "[TOOL_CALLS]",
              .before_name = "[TOOL_CALLS]",
              .before_arguments = "[ARGS]",
              .after_arguments = "",
              .between = ""},
     .control_tokens = kMistralTokens,
     .calls_are_text = false,
     .id_length = 9},
};

constexpr ReasoningFormat kReasoningFormats[] = {
    {.name = "qwen3",
     .alias = "think",
     .matches = has_think_tag,
     .open = "<think>",
     .close = "</think>",
     .gap = "\n\n",
     .start = by_last_tag,
     .make = make_think_parser},
    {.name = "openai_gptoss",
     .alias = "harmony",
     .matches = is_harmony,
     .open = "<|channel|>analysis<|message|>",
     .close = "<|end|>",
     .gap = "",
     .start = never_in_text,
     .make = make_harmony_reasoning,
     .control_tokens = kHarmonyTokens,
     .answer_prefix = "<|channel|>final<|message|>"},
    // Everything before </think> is reasoning, whether or not there was an opening tag.
    {.name = "deepseek_r1",
     .alias = "",
     .matches = never,
     .open = "<think>",
     .close = "</think>",
     .gap = "\n\n",
     .start = always_inside,
     .make = make_think_parser},
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
const ToolFormat& generic_tool_format() { return kToolFormats[1]; }
std::span<const ReasoningFormat> reasoning_formats() { return kReasoningFormats; }

Result<const ToolFormat*> find_tool_format(std::string_view name, std::string_view chat_template) {
  return find(tool_formats(), "tool-call parser", name, chat_template);
}

Result<const ReasoningFormat*> find_reasoning_format(std::string_view name,
                                                     std::string_view chat_template) {
  return find(reasoning_formats(), "reasoning parser", name, chat_template);
}

}  // namespace atom::parsers
