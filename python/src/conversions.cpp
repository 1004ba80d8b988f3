#include "python/src/conversions.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>

#include "atom/entrypoints/cli/generation.h"
#include "atom/entrypoints/openai/request_fields.h"

namespace atom::python {
namespace json = boost::json;
namespace {

constexpr int kMaxDepth = 64;
// What the server limits for its own safety is the caller's own affair here.
constexpr int64_t kMaxChoices = 1024;
constexpr int64_t kMaxStops = 256;

std::string kind_of(nb::handle value) {
  std::string name = text_of(nb::str(value.type().attr("__name__")));
  return name == "NoneType" ? "None" : name;
}

std::string key_text(nb::handle key, const char* what) {
  if (nb::isinstance<nb::str>(key)) return text_of(key);
  if (nb::isinstance<nb::int_>(key)) return text_of(nb::str(key));
  throw nb::type_error(str_format("{}: a key must be a str or an int", what).c_str());
}

json::value number_json(nb::handle value, const char* what) {
  if (nb::isinstance<nb::int_>(value)) {
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
    if (overflow != 0) throw nb::value_error(str_format("{}: does not fit 64 bits", what).c_str());
    return static_cast<int64_t>(number);
  }
  const double number = PyFloat_AsDouble(value.ptr());
  if (PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    throw nb::type_error(
        str_format("{}: {} is not a value it can have", what, kind_of(value)).c_str());
  }
  if (!std::isfinite(number)) {
    throw nb::value_error(str_format("{} must be a finite number", what).c_str());
  }
  return number;
}

nb::object logprobs_to_python(const TokenLogprobs& token, const Tokenizer* tokenizer) {
  const auto entry = [&](int32_t id, float logprob) {
    nb::dict out;
    out["token_id"] = id;
    if (tokenizer != nullptr) {
      const std::string text = tokenizer->decode({&id, 1}, false);
      out["token"] = nb::str(text.data(), text.size());
    }
    out["logprob"] = logprob;
    return out;
  };
  nb::list top;
  for (const auto& [id, logprob] : token.top) top.append(entry(id, logprob));
  nb::dict out;
  out["logprob"] = token.logprob;
  out["rank"] = token.rank;
  out["top_logprobs"] = top;
  return out;
}

nb::list logprobs_to_python(const std::vector<TokenLogprobs>& tokens,
                            const std::vector<int32_t>& ids, const Tokenizer* tokenizer) {
  nb::list out;
  for (size_t i = 0; i < tokens.size(); ++i) {
    nb::object entry = logprobs_to_python(tokens[i], tokenizer);
    entry["token_id"] = ids[i];
    out.append(entry);
  }
  return out;
}

nb::list prompt_logprobs_to_python(const std::vector<std::optional<TokenLogprobs>>& tokens,
                                   const Tokenizer* tokenizer) {
  nb::list out;
  for (const auto& token : tokens)
    out.append(token ? logprobs_to_python(*token, tokenizer) : nb::none());
  return out;
}

nb::str to_str(std::string_view text) { return nb::str(text.data(), text.size()); }

nb::object stop_reason_to_python(const ChoiceDelta& choice) {
  if (const auto* text = std::get_if<std::string>(&choice.stop_reason)) return to_str(*text);
  if (const auto* id = std::get_if<int32_t>(&choice.stop_reason)) return nb::int_(*id);
  return nb::none();
}

// "--block-size: 7: not a block size" as "block_size: 7: ...".
std::string python_message(const Error& error) {
  if (!error.param.starts_with("--") || !error.message.starts_with(error.param))
    return error.message;
  std::string name = error.param.substr(2);
  std::replace(name.begin(), name.end(), '-', '_');
  return name + error.message.substr(error.param.size());
}

}  // namespace

void raise(const Error& error) {
  const std::string message = python_message(error);
  switch (error.code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kUnsupported:
    case ErrorCode::kDataLoss:
      throw nb::value_error(message.c_str());
    case ErrorCode::kNotFound:
      PyErr_SetString(PyExc_FileNotFoundError, message.c_str());
      throw nb::python_error();
    case ErrorCode::kResourceExhausted:
    case ErrorCode::kUnavailable:
    case ErrorCode::kInternal:
      break;
  }
  throw EngineFailure(message);
}

std::string text_of(nb::handle value) {
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(value.ptr(), &size);
  if (text == nullptr) throw nb::python_error();  // half a surrogate pair
  return {text, static_cast<size_t>(size)};
}

json::value to_json(nb::handle value, const char* what, int depth) {
  if (depth > kMaxDepth) throw nb::value_error(str_format("{}: nested too deep", what).c_str());
  if (value.is_none()) return nullptr;
  if (nb::isinstance<nb::bool_>(value)) return nb::cast<bool>(value);
  if (nb::isinstance<nb::str>(value)) return json::string(text_of(value));
  if (nb::isinstance<nb::dict>(value)) {
    json::object out;
    for (const auto& [key, item] : nb::borrow<nb::dict>(value))
      out[key_text(key, what)] = to_json(item, what, depth + 1);
    return out;
  }
  if (nb::isinstance<nb::list>(value) || nb::isinstance<nb::tuple>(value)) {
    json::array out;
    for (const nb::handle item : value) out.push_back(to_json(item, what, depth + 1));
    return out;
  }
  return number_json(value, what);
}

Prompt to_prompt(nb::handle value, size_t index) {
  if (nb::isinstance<nb::str>(value)) return text_of(value);
  std::vector<int32_t> ids;
  if (!nb::isinstance<nb::dict>(value) && !nb::isinstance<nb::bytes>(value) &&
      nb::try_cast(value, ids)) {
    return ids;
  }
  throw nb::type_error(str_format("prompt {}: must be a str or a sequence of token ids, not {}",
                                  index, kind_of(value))
                           .c_str());
}

SamplingParams to_sampling_params(nb::dict fields, const LLMEngine& engine) {
  json::object body;
  for (const auto& [key, value] : fields) {
    const std::string name = text_of(key);
    // The server calls them `stop`.
    body[name == "stop_strings" ? "stop" : name] = to_json(value, name.c_str());
  }
  if (!body.contains("max_tokens")) body["max_tokens"] = SamplingParams{}.max_tokens;
  // More than the context is cut like what exceeds the room that a prompt leaves.
  if (json::value& wanted = body["max_tokens"]; wanted.is_int64())
    wanted = std::min(wanted.get_int64(), engine.max_model_len());
  body["prompt"] = json::array{0};  // the real one is checked by the engine
  const openai::RequestLimits limits{.max_n = kMaxChoices,
                                     .max_logprobs = engine.model_config().vocab_size,
                                     .max_stop = kMaxStops,
                                     .max_sequences = kMaxChoices,
                                     .vocab_size = engine.model_config().vocab_size,
                                     .max_model_len = engine.max_model_len()};
  openai::ApiRequest request =
      value_or_raise(openai::parse_request(openai::kCompletions, json::serialize(body), limits));
  request.sampling.max_tokens = *request.max_tokens;
  return std::move(request.sampling);
}

nb::dict to_python(const GenerationResult& result, const Tokenizer* tokenizer) {
  nb::dict out;
  out["text"] = to_str(result.text);
  out["token_ids"] = nb::cast(result.token_ids);
  out["latency"] = result.latency;
  out["finish_reason"] = to_str(cli::finish_reason_name(result.finish_reason));
  out["num_tokens_input"] = result.num_tokens_input;
  out["num_tokens_output"] = result.num_tokens_output;
  out["ttft"] = result.ttft;
  out["tpot"] = result.tpot;
  if (!result.logprobs.empty()) {
    out["logprobs"] = logprobs_to_python(result.logprobs, result.token_ids, tokenizer);
  }
  if (!result.prompt_logprobs.empty()) {
    out["prompt_logprobs"] = prompt_logprobs_to_python(result.prompt_logprobs, tokenizer);
  }
  return out;
}

void append_events(nb::list& events, RequestOutput&& output, const Tokenizer* tokenizer) {
  nb::object error = nb::none();
  if (output.error) error = to_str(output.error->message);
  nb::object prompt_logprobs = nb::none();
  if (!output.prompt_logprobs.empty())
    prompt_logprobs = prompt_logprobs_to_python(output.prompt_logprobs, tokenizer);
  for (const ChoiceDelta& choice : output.choices) {
    nb::object reason = nb::none();
    if (choice.finish_reason) reason = to_str(cli::finish_reason_name(*choice.finish_reason));
    nb::object logprobs = nb::none();
    if (!choice.logprobs.empty())
      logprobs = logprobs_to_python(choice.logprobs, choice.token_ids, tokenizer);
    events.append(nb::make_tuple(
        output.request_id, nb::cast(choice.token_ids), choice.finish_reason.has_value(), reason,
        to_str(choice.text), choice.index, stop_reason_to_python(choice), logprobs, prompt_logprobs,
        output.num_prompt_tokens, output.num_cached_tokens, output.timing.ttft,
        output.timing.latency, error));
    prompt_logprobs = nb::none();
  }
  if (output.choices.empty() && output.finished) {
    events.append(nb::make_tuple(output.request_id, nb::list(), true, "error", "", -1, nb::none(),
                                 nb::none(), nb::none(), output.num_prompt_tokens,
                                 output.num_cached_tokens, output.timing.ttft,
                                 output.timing.latency, error));
  }
}

}  // namespace atom::python
