// Between Python objects and the engine's structs. Everything here needs the interpreter's lock.
// Sampling parameters go through the server's own validator, so that both doors accept and refuse
// the same values with the same words.
#pragma once

#include <nanobind/nanobind.h>

#include <boost/json/fwd.hpp>
#include <string>
#include <variant>
#include <vector>

#include "atom/core/error.h"
#include "atom/model_engine/llm_engine.h"
#include "atom/request_output.h"

namespace atom::python {

namespace nb = nanobind;

// The engine or the machine failed, not the caller: atom.EngineError.
class EngineFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws ValueError, FileNotFoundError or EngineError. Flags are spoken of as Python spells them.
[[noreturn]] void raise(const Error& error);

template <class T>
T value_or_raise(Result<T>&& result) {
  if (!result) raise(result.error());
  return std::move(*result);
}

std::string text_of(nb::handle value);  // of a str, in UTF-8

// None, bool, int, float, str, list, tuple and dict, as JSON. `what` names the value in errors.
boost::json::value to_json(nb::handle value, const char* what, int depth = 0);

// A text or its tokens.
using Prompt = std::variant<std::string, std::vector<int32_t>>;
Prompt to_prompt(nb::handle value, size_t index);

// `fields`: those of SamplingParams (sampling_params.py) that are not at their default.
SamplingParams to_sampling_params(nb::dict fields, const LLMEngine& engine);

// The dict that generate() returns for one choice.
nb::dict to_python(const GenerationResult& result, const Tokenizer* tokenizer);

// One tuple per choice, in the order of the fields of RequestOutput (outputs.py); a request that
// ends without a choice gives one with index -1.
void append_events(nb::list& events, RequestOutput&& output, const Tokenizer* tokenizer);

}  // namespace atom::python
