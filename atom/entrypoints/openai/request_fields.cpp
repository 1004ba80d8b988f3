#include "atom/entrypoints/openai/request_fields.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "atom/core/log.h"
#include "atom/entrypoints/openai/chat_messages.h"
#include "atom/entrypoints/openai/field_readers.h"
#include "atom/entrypoints/openai/json_writer.h"

namespace atom::openai {
namespace json = boost::json;
namespace {

constexpr double kAnyInt64 = 9.3e18;   // a row's limit: every int64 is in range
constexpr float kGreedyBelow = 1e-5F;  // such a temperature only ever picks the most likely token

std::string number_text(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15)
    return std::to_string(static_cast<int64_t>(value));
  std::string out;
  append_float(out, static_cast<float>(value));
  return out;
}

std::string range_text(const FieldSpec& field, double max) {
  if (max >= kAnyInt64) return str_format("{} must be an integer of 64 bits", field.name);
  return str_format("{} must be {} {} and at most {}", field.name,
                    field.above_min ? "greater than" : "at least", number_text(field.min),
                    number_text(max));
}

double field_max(const FieldSpec& field, const RequestLimits& limits) {
  return field.max_from != nullptr ? static_cast<double>(limits.*field.max_from) : field.max;
}

template <class>
struct MemberOf;
template <class Class, class Value>
struct MemberOf<Value Class::*> {
  using type = Class;
};

// A row's variable: a member of ApiRequest or of its SamplingParams.
template <auto kMember>
auto& target(ApiRequest& request) {
  if constexpr (std::is_same_v<typename MemberOf<decltype(kMember)>::type, SamplingParams>) {
    return request.sampling.*kMember;
  } else {
    return request.*kMember;
  }
}

template <auto kMember>
Status boolean(const json::value& value, const FieldSpec& field, const RequestLimits&,
               ApiRequest& request) {
  bool out = false;
  ATOM_RETURN_IF_ERROR(read_bool(value, field.name, out));
  target<kMember>(request) = out;
  return {};
}

template <auto kMember>
Status integer(const json::value& value, const FieldSpec& field, const RequestLimits& limits,
               ApiRequest& request) {
  if (!value.is_number()) return type_error(field.name, "an integer", value);
  const std::optional<int64_t> number = as_integer(value);
  const double max = field_max(field, limits);
  const bool any_int64 = field.max >= kAnyInt64;
  if (!number && !value.is_double()) return field_error(field.name, range_text(field, max));
  if (!number) return field_error(field.name, str_format("{} must be an integer", field.name));
  if (!any_int64 &&
      (static_cast<double>(*number) < field.min || static_cast<double>(*number) > max)) {
    return field_error(field.name, str_format("{}, got {}", range_text(field, max), *number));
  }
  using Target = std::remove_reference_t<decltype(target<kMember>(request))>;
  if constexpr (std::is_same_v<Target, std::optional<int32_t>> || std::is_same_v<Target, int32_t>) {
    target<kMember>(request) = static_cast<int32_t>(*number);
  } else {
    target<kMember>(request) = *number;
  }
  return {};
}

// Zero, which only scoring takes, is for check_lengths.
template <auto kMember>
Status length(const json::value& value, const FieldSpec& field, const RequestLimits& limits,
              ApiRequest& request) {
  if (value.is_number() && as_integer(value) == 0) {
    request.*kMember = 0;
    return {};
  }
  return integer<kMember>(value, field, limits, request);
}

template <auto kMember>
Status number(const json::value& value, const FieldSpec& field, const RequestLimits&,
              ApiRequest& request) {
  if (!value.is_number()) return type_error(field.name, "a number", value);
  const double got = value.to_number<double>();
  if (!std::isfinite(got) || got < field.min || got > field.max ||
      (field.above_min && got == field.min)) {
    return field_error(field.name, range_text(field, field.max));
  }
  auto stored = static_cast<float>(got);
  if (field.above_min && stored <= static_cast<float>(field.min))
    stored = std::numeric_limits<float>::min();
  target<kMember>(request) = stored;
  return {};
}

template <auto kMember>
Status string(const json::value& value, const FieldSpec& field, const RequestLimits&,
              ApiRequest& request) {
  if (!value.is_string()) return type_error(field.name, "a string", value);
  target<kMember>(request) = std::string(value.get_string());
  return {};
}

// Rows of features that are not offered: only values that ask for nothing pass.
Status refused(const json::value& value, const FieldSpec& field, const RequestLimits&,
               ApiRequest&) {
  const bool harmless = (value.is_bool() && !value.get_bool()) ||
                        (value.is_number() && value.to_number<double>() == 0) ||
                        (value.is_string() && value.get_string().empty()) ||
                        (value.is_array() && value.get_array().empty()) ||
                        (value.is_object() && value.get_object().empty());
  if (harmless) return {};
  return field_error(field.name, str_format("{} is not supported by this server", field.name),
                     ErrorCode::kUnsupported);
}

using P = SamplingParams;
using R = ApiRequest;
using K = FieldKind;

// chat_template_kwargs stands before the fields that set single template variables: it wins.
// `prompt` is an alias of `messages` in chat.
constexpr FieldSpec kFields[] = {
    {"model", kBothEndpoints, K::kString, string<&R::model>},
    {"messages", kChat, K::kArray, read_messages},
    {"prompt", kChat, K::kArray, read_messages},
    {"prompt", kCompletions, K::kOther, read_prompt},
    {"max_tokens", kBothEndpoints, K::kInteger, length<&R::max_tokens>, 1, 2147483647},
    {"max_completion_tokens", kChat, K::kInteger, length<&R::max_completion_tokens>, 1, 2147483647},
    {"min_tokens", kBothEndpoints, K::kInteger, integer<&P::min_tokens>, 0, 2147483647},
    {"temperature", kBothEndpoints, K::kNumber, number<&P::temperature>, 0, 2},
    {.name = "top_p",
     .kind = K::kNumber,
     .read = number<&P::top_p>,
     .min = 0,
     .max = 1,
     .above_min = true},
    {"top_k", kBothEndpoints, K::kInteger, integer<&P::top_k>, -1, 2147483647},
    {"min_p", kBothEndpoints, K::kNumber, number<&P::min_p>, 0, 1},
    {"presence_penalty", kBothEndpoints, K::kNumber, number<&P::presence_penalty>, -2, 2},
    {"frequency_penalty", kBothEndpoints, K::kNumber, number<&P::frequency_penalty>, -2, 2},
    {.name = "repetition_penalty",
     .kind = K::kNumber,
     .read = number<&P::repetition_penalty>,
     .min = 0,
     .max = 100,
     .above_min = true},
    {"seed", kBothEndpoints, K::kInteger, integer<&P::seed>, -kAnyInt64, kAnyInt64},
    {.name = "n",
     .kind = K::kInteger,
     .read = integer<&P::n>,
     .min = 1,
     .max_from = &RequestLimits::max_n},
    {"best_of", kBothEndpoints, K::kInteger, integer<&R::best_of>, 1, 2147483647},
    {"stop", kBothEndpoints, K::kOther, read_stop},
    {"stop_token_ids", kBothEndpoints, K::kArray, read_stop_token_ids},
    {"include_stop_str_in_output", kBothEndpoints, K::kBool,
     boolean<&P::include_stop_str_in_output>},
    {"ignore_eos", kBothEndpoints, K::kBool, boolean<&P::ignore_eos>},
    {"logit_bias", kBothEndpoints, K::kObject, read_logit_bias},
    {"logprobs", kChat, K::kBool, boolean<&R::want_logprobs>},
    {.name = "top_logprobs",
     .endpoints = kChat,
     .kind = K::kInteger,
     .read = integer<&R::top_logprobs>,
     .max_from = &RequestLimits::max_logprobs},
    {.name = "logprobs",
     .endpoints = kCompletions,
     .kind = K::kInteger,
     .read = integer<&P::logprobs>,
     .max_from = &RequestLimits::max_logprobs},
    {.name = "prompt_logprobs",
     .kind = K::kInteger,
     .read = integer<&R::prompt_logprobs>,
     .max_from = &RequestLimits::max_logprobs},
    {"echo", kCompletions, K::kBool, boolean<&R::echo>},
    {"skip_special_tokens", kBothEndpoints, K::kBool, boolean<&P::skip_special_tokens>},
    {"spaces_between_special_tokens", kBothEndpoints, K::kBool,
     boolean<&P::spaces_between_special_tokens>},
    {"add_special_tokens", kBothEndpoints, K::kBool, boolean<&R::add_special_tokens>},
    {"add_generation_prompt", kChat, K::kBool, boolean<&R::add_generation_prompt>},
    {"continue_final_message", kChat, K::kBool, boolean<&R::continue_final_message>},
    {"chat_template_kwargs", kChat, K::kObject, read_template_kwargs},
    {"reasoning_effort", kChat, K::kString, read_reasoning_effort},
    {"thinking", kChat, K::kOther, read_thinking},
    {"documents", kChat, K::kArray, read_documents},
    {"tools", kChat, K::kArray, read_tools},
    {"tool_choice", kChat, K::kOther, read_tool_choice},
    {"parallel_tool_calls", kChat, K::kBool, boolean<&R::parallel_tool_calls>},
    {"include_reasoning", kChat, K::kBool, boolean<&R::include_reasoning>},
    {"stream", kBothEndpoints, K::kBool, boolean<&R::stream>},
    {"stream_options", kBothEndpoints, K::kObject, read_stream_options},
    {"return_token_ids", kBothEndpoints, K::kBool, boolean<&R::return_token_ids>},
    {"return_tokens_as_token_ids", kBothEndpoints, K::kBool,
     boolean<&R::return_tokens_as_token_ids>},
    {"response_format", kBothEndpoints, K::kOther, read_response_format},
    {"structured_outputs", kBothEndpoints, K::kObject, read_structured_outputs},
    {"guided_json", kBothEndpoints, K::kOther, read_guided},
    {"guided_regex", kBothEndpoints, K::kString, read_guided},
    {"guided_choice", kBothEndpoints, K::kArray, read_guided},
    {"guided_grammar", kBothEndpoints, K::kString, read_guided},
    {"modalities", kChat, K::kOther, read_modalities},
    // Not offered.
    {"suffix", kCompletions, K::kRefused, refused},
    {"echo", kChat, K::kRefused, refused},
    {"prompt_embeds", kBothEndpoints, K::kRefused, refused},
    {"chat_template", kChat, K::kRefused, refused},
    {"guided_whitespace_pattern", kBothEndpoints, K::kRefused, refused},
    {"bad_words", kBothEndpoints, K::kRefused, refused},
    {"allowed_token_ids", kBothEndpoints, K::kRefused, refused},
    {"truncate_prompt_tokens", kBothEndpoints, K::kRefused, refused},
    {"use_beam_search", kBothEndpoints, K::kRefused, refused},
    {"priority", kBothEndpoints, K::kRefused, refused},
    {"cache_salt", kBothEndpoints, K::kRefused, refused},
    {"kv_transfer_params", kBothEndpoints, K::kRefused, refused},
    // Names that other servers have for what binds the answer: never ignored in silence.
    {"guided_json_object", kBothEndpoints, K::kRefused, refused},
    {"json_schema", kBothEndpoints, K::kRefused, refused},
    {"regex", kBothEndpoints, K::kRefused, refused},
    {"ebnf", kBothEndpoints, K::kRefused, refused},
    {"grammar", kBothEndpoints, K::kRefused, refused},
    {"stop_regex", kBothEndpoints, K::kRefused, refused},
    {"logits_processors", kBothEndpoints, K::kRefused, refused},
    {"functions", kChat, K::kRefused, refused},
    {"function_call", kChat, K::kRefused, refused},
    {"audio", kChat, K::kRefused, refused},
    {"web_search_options", kChat, K::kRefused, refused},
};

Status check_lengths(ApiRequest& request, const RequestLimits& limits) {
  const char* name = request.max_completion_tokens ? "max_completion_tokens" : "max_tokens";
  const std::optional<int64_t> given =
      request.max_completion_tokens ? request.max_completion_tokens : request.max_tokens;
  if (given && *given == 0 && !request.echo) {
    return field_error(name, str_format("{} must be at least 1, got 0", name));
  }
  if (given && *given > limits.max_model_len) {
    return field_error(name, str_format("This model's maximum context length is {} tokens. "
                                        "However, you requested {} output tokens. "
                                        "Please reduce the number of requested output tokens.",
                                        limits.max_model_len, *given));
  }
  request.max_tokens = given;
  if (request.prompt_logprobs && request.stream) {
    return field_error("prompt_logprobs", "prompt_logprobs cannot be streamed");
  }
  if (request.sampling.min_tokens > given.value_or(256)) {
    return field_error("min_tokens",
                       str_format("min_tokens must be at most max_tokens ({}), got {}",
                                  given.value_or(256), request.sampling.min_tokens));
  }
  return {};
}

// Leaves only the allowed tools: the model sees no others.
Status check_tool_choice(ApiRequest& request) {
  if (!request.tool_choice) return {};
  using Mode = ToolChoice::Mode;
  const ToolChoice& choice = *request.tool_choice;
  for (const std::string& name : choice.allowed) {
    if (!has_tool(request.tools, name)) {
      return field_error(
          "tool_choice",
          str_format("tool_choice allows \"{}\", which is not in tools", clipped(name)));
    }
  }
  if (!choice.allowed.empty()) keep_tools(request.tools, choice.allowed);
  if (choice.mode == Mode::kNone || choice.mode == Mode::kAuto) return {};
  if (request.tools.empty()) return field_error("tool_choice", "tool_choice needs tools");
  if (choice.mode == Mode::kNamed && !has_tool(request.tools, choice.name)) {
    return field_error("tool_choice", str_format("tool_choice names \"{}\", which is not in tools",
                                                 clipped(choice.name)));
  }
  return {};
}

// What one field alone cannot tell.
Status check_together(ApiRequest& request, const RequestLimits& limits) {
  SamplingParams& sampling = request.sampling;
  ATOM_RETURN_IF_ERROR(check_lengths(request, limits));
  if (request.has_stream_options && !request.stream) {
    return field_error("stream_options", "stream_options needs stream: true");
  }
  if (request.best_of && *request.best_of < sampling.n) {
    return field_error("best_of", str_format("best_of must be at least n ({}), got {}", sampling.n,
                                             *request.best_of));
  }
  if (request.endpoint == kChat) {
    if (request.messages.empty())
      return field_error("messages", "messages is required and must not be empty");
    const bool wanted = request.want_logprobs.value_or(false);
    if (request.top_logprobs.value_or(0) > 0 && !wanted)
      return field_error("top_logprobs", "top_logprobs needs logprobs: true");
    if (wanted) sampling.logprobs = request.top_logprobs.value_or(0);
    ATOM_RETURN_IF_ERROR(check_tool_choice(request));
    if (request.continue_final_message && request.add_generation_prompt.value_or(false)) {
      return field_error("continue_final_message",
                         "continue_final_message and add_generation_prompt exclude each other");
    }
  } else {
    if (request.prompts.empty()) return field_error("prompt", "prompt is required");
    if (request.echo && sampling.logprobs) sampling.prompt_logprobs = sampling.logprobs;
    // The engine accepts zero tokens only as a scoring request.
    if (request.max_tokens == 0 && !sampling.prompt_logprobs) sampling.prompt_logprobs = 0;
  }
  if (request.prompt_logprobs) {
    sampling.prompt_logprobs =
        std::max(sampling.prompt_logprobs.value_or(0), *request.prompt_logprobs);
  }
  const int64_t prompts = std::max<int64_t>(1, static_cast<int64_t>(request.prompts.size()));
  if (prompts * sampling.n > limits.max_sequences) {
    return field_error("n", str_format("{} prompts x n = {} sequences; at most {} are allowed",
                                       prompts, prompts * sampling.n, limits.max_sequences));
  }
  if (sampling.temperature < kGreedyBelow) sampling.temperature = 0.0F;
  return {};
}

// Unknown fields are ignored; who debugs a client may see which.
void log_unknown_fields(const json::object& object, Endpoint endpoint) {
  if (log_level() > LogLevel::kDebug) return;
  for (const json::key_value_pair& entry : object) {
    const bool known = std::any_of(std::begin(kFields), std::end(kFields), [&](const auto& field) {
      return (field.endpoints & endpoint) != 0 && field.name == std::string_view(entry.key());
    });
    if (!known) log_debug("unknown field ignored: {}", clipped(entry.key()));
  }
}

}  // namespace

std::span<const FieldSpec> request_fields() { return kFields; }

Result<ApiRequest> parse_request(Endpoint endpoint, std::string_view body,
                                 const RequestLimits& limits) {
  ATOM_ASSIGN_OR_RETURN(const json::object object, parse_body(body));
  ApiRequest request;
  request.endpoint = endpoint;
  log_unknown_fields(object, endpoint);
  for (const FieldSpec& field : kFields) {
    if ((field.endpoints & endpoint) == 0) continue;
    const json::value* value =
        object.if_contains(json::string_view(field.name.data(), field.name.size()));
    if (value == nullptr || value->is_null()) continue;
    if (endpoint == kChat && field.name == "prompt" && !request.messages.empty()) continue;
    ATOM_RETURN_IF_ERROR(field.read(*value, field, limits, request));
  }
  ATOM_RETURN_IF_ERROR(check_together(request, limits));
  return request;
}

}  // namespace atom::openai
