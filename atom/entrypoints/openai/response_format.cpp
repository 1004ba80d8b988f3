#include "atom/entrypoints/openai/response_format.h"

#include <algorithm>
#include <cmath>

#include "atom/entrypoints/openai/json_writer.h"

namespace atom::openai {
namespace {

constexpr float kMinLogprob = -9999.0F;  // what JSON has for minus infinity

float bounded(float logprob) {
  return std::isfinite(logprob) ? std::max(logprob, kMinLogprob) : kMinLogprob;
}

void separate(std::string& list) {
  if (!list.empty()) list += ',';
}

void append_bytes(std::string& out, std::string_view bytes) {
  out += '[';
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i > 0) out += ',';
    append_int(out, static_cast<unsigned char>(bytes[i]));
  }
  out += ']';
}

// Both names: clients of vLLM read the one, all others the other.
void append_reasoning(std::string& out, std::string_view text) {
  out += "\"reasoning_content\":";
  append_json_string(out, text);
  out += ",\"reasoning\":";
  append_json_string(out, text);
}

void append_calls(std::string& out, const std::vector<parsers::ToolCallDelta>& calls, bool whole) {
  out += "\"tool_calls\":[";
  for (size_t i = 0; i < calls.size(); ++i) {
    const parsers::ToolCallDelta& call = calls[i];
    out += i > 0 ? ",{" : "{";
    if (!whole) {
      out += "\"index\":";
      append_int(out, call.index);
      out += ',';
    }
    if (call.first) {
      out += "\"id\":";
      append_json_string(out, call.id);
      out += ",\"type\":\"function\",\"function\":{\"name\":";
      append_json_string(out, call.name);
      out += ',';
    } else {
      out += "\"function\":{";
    }
    out += "\"arguments\":";
    append_json_string(out, call.arguments);
    out += "}}";
  }
  out += ']';
}

}  // namespace

void LogprobLists::clear() {
  content.clear();
  tokens.clear();
  token_logprobs.clear();
  top_logprobs.clear();
  text_offset.clear();
}

size_t LogprobLists::size() const {
  return content.size() + tokens.size() + token_logprobs.size() + top_logprobs.size() +
         text_offset.size();
}

ResponseFormat::ResponseFormat(Options options, const Tokenizer& tokenizer)
    : options_(std::move(options)), tokenizer_(tokenizer) {
  chunk_head_ = "data: {\"id\":";
  append_json_string(chunk_head_, options_.id);
  chunk_head_ += options_.endpoint == kChat ? R"(,"object":"chat.completion.chunk","created":)"
                                            : R"(,"object":"text_completion","created":)";
  append_int(chunk_head_, options_.created);
  chunk_head_ += ",\"model\":";
  append_json_string(chunk_head_, options_.model);
  chunk_head_ += ",\"choices\":[";
}

void ResponseFormat::append_token(std::string& out, int32_t id, std::string_view bytes) const {
  if (options_.tokens_as_ids) {
    out += "\"token_id:";
    append_int(out, id);
    out += '"';
  } else {
    append_json_string(out, bytes);
  }
}

void ResponseFormat::append_chat_entry(std::string& out, int32_t id, float logprob) const {
  const std::string bytes = tokenizer_.token_bytes(id);
  out += "{\"token\":";
  append_token(out, id, bytes);
  out += ",\"logprob\":";
  append_float(out, bounded(logprob));
  out += ",\"bytes\":";
  append_bytes(out, bytes);
}

void ResponseFormat::add_logprobs(const std::optional<TokenLogprobs>& logprobs, int32_t token,
                                  LogprobLists& lists, int64_t& num_characters) const {
  const auto num_top = static_cast<size_t>(options_.num_top);
  if (options_.endpoint == kChat) {
    if (!logprobs) return;
    separate(lists.content);
    append_chat_entry(lists.content, token, logprobs->logprob);
    lists.content += ",\"top_logprobs\":[";
    for (size_t i = 0; i < std::min(num_top, logprobs->top.size()); ++i) {
      if (i > 0) lists.content += ',';
      append_chat_entry(lists.content, logprobs->top[i].first, logprobs->top[i].second);
      lists.content += '}';
    }
    lists.content += "]}";
    return;
  }
  const std::string bytes = tokenizer_.token_bytes(token);
  separate(lists.tokens);
  append_token(lists.tokens, token, bytes);
  separate(lists.text_offset);
  append_int(lists.text_offset, num_characters - (continues_character(bytes) ? 1 : 0));
  const bool hidden = options_.skip_special_tokens && tokenizer_.is_special(token);
  if (!hidden) num_characters += count_characters(bytes);
  separate(lists.token_logprobs);
  separate(lists.top_logprobs);
  if (!logprobs) {
    lists.token_logprobs += "null";
    lists.top_logprobs += "null";
    return;
  }
  append_float(lists.token_logprobs, bounded(logprobs->logprob));
  // The token itself is always in its own dictionary, with the same text as in token_logprobs.
  // Distinct tokens can read the same; the first one written, the likelier, keeps the key.
  std::vector<std::string> keys;
  const auto add = [&](int32_t id, float logprob) {
    std::string key;
    append_token(key, id, options_.tokens_as_ids ? std::string() : tokenizer_.token_bytes(id));
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) return;
    if (!keys.empty()) lists.top_logprobs += ',';
    lists.top_logprobs += key;
    lists.top_logprobs += ':';
    append_float(lists.top_logprobs, bounded(logprob));
    keys.push_back(std::move(key));
  };
  lists.top_logprobs += '{';
  bool own = false;
  for (size_t i = 0; i < std::min(num_top, logprobs->top.size()); ++i) {
    own = own || logprobs->top[i].first == token;
    add(logprobs->top[i].first,
        logprobs->top[i].first == token ? logprobs->logprob : logprobs->top[i].second);
  }
  if (!own) add(token, logprobs->logprob);
  lists.top_logprobs += '}';
}

void ResponseFormat::append_prompt_logprobs(std::string& out, const std::vector<int32_t>& ids,
                                            const std::vector<std::optional<TokenLogprobs>>& rows,
                                            int32_t num_top) const {
  const auto entry = [&](int32_t id, float logprob, int64_t rank, const char* separator) {
    out += separator;
    out += '"';
    append_int(out, id);
    out += "\":{\"logprob\":";
    append_float(out, bounded(logprob));
    out += ",\"rank\":";
    append_int(out, rank);
    out += ",\"decoded_token\":";
    append_json_string(out, tokenizer_.token_bytes(id));
    out += '}';
  };
  out += '[';
  for (size_t t = 0; t < ids.size(); ++t) {
    if (t > 0) out += ',';
    if (t >= rows.size() || !rows[t]) {
      out += "null";
      continue;
    }
    const TokenLogprobs& row = *rows[t];
    out += '{';
    entry(ids[t], row.logprob, row.rank, "");
    const size_t count = std::min(row.top.size(), static_cast<size_t>(num_top));
    for (size_t i = 0; i < count; ++i) {
      if (row.top[i].first == ids[t]) continue;
      entry(row.top[i].first, row.top[i].second, static_cast<int64_t>(i) + 1, ",");
    }
    out += '}';
  }
  out += ']';
}

void ResponseFormat::append_lists(std::string& out, const LogprobLists& lists) const {
  out += ",\"logprobs\":";
  if (!options_.logprobs) {
    out += "null";
  } else if (options_.endpoint == kChat) {
    out += "{\"content\":[" + lists.content + "]}";
  } else {
    out += "{\"text_offset\":[" + lists.text_offset + "],\"token_logprobs\":[" +
           lists.token_logprobs + "],\"tokens\":[" + lists.tokens + "],\"top_logprobs\":[" +
           lists.top_logprobs + "]}";
  }
}

// As OpenAI has it: a call that the request itself named ends with "stop".
const char* ResponseFormat::reason_text(const ChoiceState& choice) const {
  if (*choice.finish_reason == FinishReason::kLength) return "length";
  return choice.called && !options_.named_choice ? "tool_calls" : "stop";
}

void ResponseFormat::append_delta(std::string& out, const ChoiceState& choice) const {
  const char* separator = "";
  out += ",\"delta\":{";
  if (!choice.started) {
    out += "\"role\":\"assistant\"";
    separator = ",";
  }
  if (!choice.reasoning.empty()) {
    out += separator;
    append_reasoning(out, choice.reasoning);
    separator = ",";
  }
  const bool nothing = choice.reasoning.empty() && choice.calls.empty();
  if (!choice.text.empty() || (nothing && (!options_.parsed || !choice.started))) {
    out += separator;
    out += "\"content\":";
    append_json_string(out, choice.text);
    separator = ",";
  }
  if (!choice.calls.empty()) {
    out += separator;
    append_calls(out, choice.calls, false);
  }
  out += '}';
}

void ResponseFormat::append_message(std::string& out, const ChoiceState& choice) const {
  out += R"(,"message":{"role":"assistant",)";
  if (!choice.reasoning.empty()) {
    append_reasoning(out, choice.reasoning);
    out += ',';
  }
  out += "\"content\":";
  if (choice.text.empty() && (choice.called || !choice.reasoning.empty())) {
    out += "null";
  } else {
    append_json_string(out, choice.text);
  }
  if (!choice.calls.empty()) {
    out += ',';
    append_calls(out, choice.calls, true);
  }
  out += '}';
}

void ResponseFormat::append_end(std::string& out, const ChoiceState& choice) const {
  out += ",\"finish_reason\":";
  if (!choice.finish_reason) {
    out += "null";
  } else {
    out += '"';
    out += reason_text(choice);
    out += "\",\"stop_reason\":";
    if (const auto* text = std::get_if<std::string>(&choice.stop_reason)) {
      append_json_string(out, *text);
    } else if (const auto* id = std::get_if<int32_t>(&choice.stop_reason)) {
      append_int(out, *id);
    } else {
      out += "null";
    }
  }
  if (options_.return_token_ids) {
    out += ",\"token_ids\":";
    append_ids(out, choice.token_ids);
  }
}

void ResponseFormat::append_usage(std::string& out, const Usage& usage) {
  out += "{\"prompt_tokens\":";
  append_int(out, usage.prompt_tokens);
  out += ",\"total_tokens\":";
  append_int(out, usage.prompt_tokens + usage.completion_tokens);
  out += ",\"completion_tokens\":";
  append_int(out, usage.completion_tokens);
  out += ",\"prompt_tokens_details\":{\"cached_tokens\":";
  append_int(out, usage.cached_tokens);
  if (usage.reasoning_tokens) {
    out += "},\"completion_tokens_details\":{\"reasoning_tokens\":";
    append_int(out, *usage.reasoning_tokens);
  }
  out += "},\"ttft_s\":";
  append_fixed4(out, usage.ttft);
  out += ",\"tpot_s\":";
  append_fixed4(out, usage.tpot);
  out += ",\"latency_s\":";
  append_fixed4(out, usage.latency);
  out += '}';
}

void ResponseFormat::chunk(std::string& out, const ChoiceState& choice, const Usage* usage,
                           const std::vector<int32_t>* prompt_ids) const {
  const bool chat = options_.endpoint == kChat;
  out += chunk_head_;
  out += "{\"index\":";
  append_int(out, choice.index);
  if (chat) {
    append_delta(out, choice);
  } else {
    out += ",\"text\":";
    append_json_string(out, choice.text);
  }
  append_lists(out, choice.logprobs);
  append_end(out, choice);
  if (prompt_ids != nullptr && !chat) {
    out += ",\"prompt_token_ids\":";
    append_ids(out, *prompt_ids);
  }
  out += "}]";
  if (prompt_ids != nullptr && chat) {
    out += ",\"prompt_token_ids\":";
    append_ids(out, *prompt_ids);
  }
  if (usage != nullptr) {
    out += ",\"usage\":";
    append_usage(out, *usage);
  }
  out += "}\n\n";
}

void ResponseFormat::usage_chunk(std::string& out, const Usage& usage) const {
  out += chunk_head_;
  out += "],\"usage\":";
  append_usage(out, usage);
  out += "}\n\n";
}

std::string ResponseFormat::whole(const std::vector<ChoiceState>& choices, const Usage& usage,
                                  const std::vector<std::vector<int32_t>>& prompt_ids,
                                  const std::vector<std::string>& prompt_logprobs,
                                  int32_t n) const {
  const bool chat = options_.endpoint == kChat;
  std::string out = "{\"id\":";
  append_json_string(out, options_.id);
  out += chat ? R"(,"object":"chat.completion","created":)"
              : R"(,"object":"text_completion","created":)";
  append_int(out, options_.created);
  out += ",\"model\":";
  append_json_string(out, options_.model);
  out += ",\"choices\":[";
  for (size_t i = 0; i < choices.size(); ++i) {
    const ChoiceState& choice = choices[i];
    out += i > 0 ? ",{\"index\":" : "{\"index\":";
    append_int(out, choice.index);
    if (chat) {
      append_message(out, choice);
    } else {
      out += ",\"text\":";
      append_json_string(out, choice.text);
    }
    append_lists(out, choice.logprobs);
    append_end(out, choice);
    if (options_.return_token_ids && !chat) {
      out += ",\"prompt_token_ids\":";
      append_ids(out, prompt_ids[i / static_cast<size_t>(n)]);
    }
    if (!prompt_logprobs.empty() && !chat)
      out += ",\"prompt_logprobs\":" + prompt_logprobs[i / static_cast<size_t>(n)];
    out += '}';
  }
  out += "],\"usage\":";
  append_usage(out, usage);
  if (options_.return_token_ids && chat) {
    out += ",\"prompt_token_ids\":";
    append_ids(out, prompt_ids[0]);
  }
  if (!prompt_logprobs.empty() && chat) out += ",\"prompt_logprobs\":" + prompt_logprobs[0];
  out += '}';
  return out;
}

}  // namespace atom::openai
