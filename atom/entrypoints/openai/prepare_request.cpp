// From a checked request to what the engine gets: the rendered and tokenised prompt, how its output
// is read, the grammar it must keep to, and what the context leaves for it.
#include <algorithm>

#include "atom/entrypoints/openai/api_server.h"
#include "atom/entrypoints/openai/chat_messages.h"
#include "atom/entrypoints/openai/json_writer.h"
#include "atom/entrypoints/parsers/tool_grammar.h"

namespace atom::openai {
namespace {

constexpr int64_t kDefaultMaxTokens = 256;
// A tokenizer may fold characters before it looks for tokens: decomposed Hangul shrinks to a third.
constexpr int64_t kFolding = 3;

// The last message goes on: whether it does so within its reasoning.
parsers::ReasoningStart start_within(const parsers::ReasoningFormat& format,
                                     const boost::json::array& messages) {
  const std::string_view text = messages.back().get_object().at("content").get_string();
  const size_t open = text.rfind(format.open);
  const size_t close = text.rfind(format.close);
  if (close != std::string_view::npos && (open == std::string_view::npos || open < close))
    return parsers::ReasoningStart::kNone;
  return open == std::string_view::npos ? parsers::ReasoningStart::kPossible
                                        : parsers::ReasoningStart::kInside;
}

}  // namespace

Result<std::string> ApiServer::render(const ApiRequest& request) const {
  if (chat_template_ == nullptr) {
    return field_error("messages",
                       "this model has no chat template; start the server with --chat-template, or "
                       "use /v1/completions");
  }
  const Tokenizer& tokenizer = *engine_.tokenizer();
  boost::json::object kwargs = options_.default_chat_template_kwargs;
  for (const boost::json::key_value_pair& entry : request.chat_template_kwargs)
    kwargs.insert_or_assign(entry.key(), entry.value());
  boost::json::array known_roles = request.messages;
  if (!template_knows_developer_) rename_role(known_roles, "developer", "system");
  if (template_knows_thinking_) copy_reasoning_to_thinking(known_roles);
  const boost::json::value messages(std::move(known_roles));
  const boost::json::value tools(request.tools);
  // With "none" the model does not see what it must not use.
  const bool no_calls = request.tool_choice && request.tool_choice->mode == ToolChoice::Mode::kNone;
  const auto text =
      chat_template_->render_chat({.messages = &messages,
                                   .tools = request.tools.empty() || no_calls ? nullptr : &tools,
                                   .chat_template_kwargs = &kwargs,
                                   .add_generation_prompt = request.add_generation_prompt.value_or(
                                       !request.continue_final_message),
                                   .continue_final_message = request.continue_final_message,
                                   .bos_token = tokenizer.bos_token(),
                                   .eos_token = tokenizer.eos_token()});
  if (text) return *text;
  return field_error("messages", str_format("the chat template refused the messages: {}",
                                            clipped(text.error().message)));
}

ParserPlan ApiServer::plan_parsers(const ApiRequest& request, std::string_view prompt) const {
  ParserPlan plan;
  const bool may_call =
      !request.tools.empty() &&
      !(request.tool_choice && request.tool_choice->mode == ToolChoice::Mode::kNone);
  if (may_call) {
    plan.tools = tool_format_;
    plan.context.tool_names = tool_names(request.tools);
    plan.context.string_parameters = string_parameters(request.tools);
  }
  plan.reasoning = reasoning_format_;
  if (plan.reasoning != nullptr) plan.start = plan.reasoning->start(*plan.reasoning, prompt);
  if (plan.reasoning != nullptr) {
    const Tokenizer& tokenizer = *engine_.tokenizer();
    plan.open_id = tokenizer.token_to_id(plan.reasoning->open).value_or(-1);
    if (plan.open_id >= 0 || plan.start == parsers::ReasoningStart::kInside)
      plan.close_id = tokenizer.token_to_id(plan.reasoning->close).value_or(-1);
  }
  if (plan.reasoning != nullptr && request.continue_final_message) {
    plan.start = start_within(*plan.reasoning, request.messages);
  }
  plan.context.in_reasoning = plan.start == parsers::ReasoningStart::kInside;
  return plan;
}

// What tool_choice and strict tools demand of the text, in the model's own form; what
// response_format demands holds for the answer, after the reasoning.
void ApiServer::set_grammar(ApiRequest& request, ParserPlan& plan) const {
  std::optional<GrammarSpec>& grammar = request.sampling.grammar;
  const bool forced = request.forces_call();
  const bool strict = plan.tools != nullptr && plan.tools->calls_are_text &&
                      parsers::has_strict_tool(request.tools);
  if (forced || strict || (plan.tools != nullptr && grammar)) {
    if (plan.tools == nullptr) plan.tools = &parsers::generic_tool_format();
    plan.context.calls_are_valid =
        forced || grammar;  // beside free text a call may still be broken
    parsers::ToolGrammarRequest wanted{
        .tools = &request.tools,
        .named = forced ? std::string_view(request.tool_choice->name) : "",
        .required = forced,
        .parallel = request.parallel_tool_calls,
        .answer = forced || !grammar ? nullptr : &*grammar};
    GrammarSpec spec = parsers::tool_grammar(plan.tools->form, wanted, plan.reasoning, plan.start);
    if (forced) {
      wanted.loose = true;
      plan.loose_grammar =
          parsers::tool_grammar(plan.tools->form, wanted, plan.reasoning, plan.start);
      if (*plan.loose_grammar == spec) plan.loose_grammar.reset();
    }
    grammar = std::move(spec);
  } else if (grammar) {
    grammar = parsers::after_reasoning(std::move(*grammar), plan.reasoning, plan.start);
  }
}

std::vector<int32_t> ApiServer::control_token_ids(const ParserPlan& plan) const {
  std::vector<int32_t> ids;
  const auto add = [&](std::span<const std::string_view> tokens) {
    for (const std::string_view token : tokens) {
      const std::optional<int32_t> id = engine_.tokenizer()->token_to_id(token);
      if (id && std::ranges::find(ids, *id) == ids.end()) ids.push_back(*id);
    }
  };
  if (plan.tools != nullptr) add(plan.tools->control_tokens);
  if (plan.reasoning != nullptr) add(plan.reasoning->control_tokens);
  return ids;
}

Status ApiServer::prepare_prompts(Generation::Input& input) const {
  ApiRequest& request = input.request;
  const Tokenizer& tokenizer = *engine_.tokenizer();
  if (request.endpoint == kChat) {
    ATOM_ASSIGN_OR_RETURN(std::string text, render(request));
    input.parsers = plan_parsers(request, text);
    set_grammar(request, input.parsers);
    if (!request.include_reasoning && input.parsers.reasoning != nullptr) {
      request.sampling.logprobs.reset();  // tokens would show it
      request.return_token_ids = false;
    }
    request.sampling.control_token_ids = control_token_ids(input.parsers);
    if (request.sampling.grammar && input.parsers.reasoning != nullptr)
      text += input.parsers.reasoning->answer_prefix;
    request.prompts.emplace_back(std::move(text));
  }
  const bool add_special = request.add_special_tokens.value_or(request.endpoint == kCompletions);
  const char* field = request.endpoint == kChat ? "messages" : "prompt";
  ATOM_RETURN_IF_ERROR(check_bytes(request, field));
  int64_t longest = 0;
  for (PromptInput& prompt : request.prompts) {
    if (auto* text = std::get_if<std::string>(&prompt)) {
      input.prompt_ids.push_back(tokenizer.encode(*text, add_special));
      if (request.echo) input.prompt_texts.push_back(std::move(*text));
    } else {
      input.prompt_ids.push_back(std::move(std::get<std::vector<int32_t>>(prompt)));
      if (request.echo)
        input.prompt_texts.push_back(
            tokenizer.decode(input.prompt_ids.back(), request.sampling.skip_special_tokens));
    }
    if (input.prompt_ids.back().empty())
      return field_error(field, str_format("{} is empty", field));
    longest = std::max(longest, static_cast<int64_t>(input.prompt_ids.back().size()));
  }
  request.messages = {};
  request.prompts.clear();
  ATOM_RETURN_IF_ERROR(check_context(request, longest, field));
  input.max_answer_bytes = options_.limits.max_answer_bytes;
  return check_answer(input);
}

// Before the time to tokenise is spent: a text with more bytes than the context has room for.
Status ApiServer::check_bytes(const ApiRequest& request, std::string_view param) const {
  const int64_t tokens = options_.limits.max_model_len;
  for (const PromptInput& prompt : request.prompts) {
    const auto* text = std::get_if<std::string>(&prompt);
    const auto size = text != nullptr ? static_cast<int64_t>(text->size()) : 0;
    if (size / longest_token_ / kFolding <= tokens) continue;
    return field_error(
        param, str_format("This model's maximum context length is {} tokens. However, your prompt "
                          "has {} bytes, which no {} tokens can hold. Please reduce the length of "
                          "the input prompt.",
                          tokens, size, tokens));
  }
  return {};
}

// What an answer may come to, by the usual size of a token in JSON; Generation counts what it does
// come to. Streams keep nothing but the prompts they repeat.
Status ApiServer::check_answer(Generation::Input& input) const {
  constexpr double kText = 16;
  constexpr double kId = 8;
  constexpr double kPromptLogprob = 96;
  constexpr double kLargeAnswer = 262144;  // some milliseconds to write
  const ApiRequest& request = input.request;
  const SamplingParams& sampling = request.sampling;
  const double logprob = request.endpoint == kChat ? 128 : 64;
  const double listed = sampling.logprobs ? logprob * (1.0 + *sampling.logprobs) : 0;
  const double token = kText + (request.return_token_ids ? kId : 0) + listed;
  double prompt_tokens = 0;
  for (const std::vector<int32_t>& ids : input.prompt_ids)
    prompt_tokens += static_cast<double>(ids.size());
  const auto n = static_cast<double>(sampling.n);
  const double made = request.stream ? 0
                                     : n * static_cast<double>(input.prompt_ids.size()) *
                                           static_cast<double>(sampling.max_tokens) * token;
  const double echoed = request.echo ? n * prompt_tokens * token : 0;
  const double scored = request.prompt_logprobs
                            ? prompt_tokens * kPromptLogprob * (1.0 + *request.prompt_logprobs)
                            : 0;
  const double total = made + echoed + scored;
  const auto limit = static_cast<double>(options_.limits.max_answer_bytes);
  if (total > kLargeAnswer) input.builder = large_work_;
  if (total <= limit) return {};
  const char* logprobs = request.endpoint == kChat ? "top_logprobs" : "logprobs";
  const char* field = scored > made + echoed ? "prompt_logprobs"
                      : echoed > made        ? "echo"
                      : sampling.n > 1       ? "n"
                      : sampling.logprobs    ? logprobs
                                             : "max_tokens";
  return field_error(
      field, str_format("the answer could take {:.0f} bytes; at most {:.0f} are allowed "
                        "(--max-answer-bytes): ask for less with {}, max_tokens or logprobs",
                        total, limit, field));
}

// Settles max_tokens: the default is 256, and what exceeds the room the longest prompt leaves is
// cut.
Status ApiServer::check_context(ApiRequest& request, int64_t prompt_tokens,
                                std::string_view param) const {
  const int64_t room = options_.limits.max_model_len - prompt_tokens;
  const int64_t wanted = request.max_tokens.value_or(kDefaultMaxTokens);
  if (room < 0 || (room == 0 && wanted > 0)) {
    return field_error(
        param,
        str_format(
            "This model's maximum context length is {} tokens. However, you requested {} output "
            "tokens "
            "and your prompt contains at least {} input tokens, for a total of at least {} tokens. "
            "Please "
            "reduce the length of the input prompt or the number of requested output tokens.",
            options_.limits.max_model_len, wanted, prompt_tokens, prompt_tokens + wanted));
  }
  request.sampling.max_tokens = std::min(wanted, room);
  request.sampling.min_tokens = std::min(request.sampling.min_tokens, request.sampling.max_tokens);
  return {};
}

}  // namespace atom::openai
