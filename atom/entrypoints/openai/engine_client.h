// What the OpenAI routes need of an engine. LLMEngine stands behind it in the server (serve.cpp), a
// mock in the tests.
#pragma once

#include <memory>

#include "atom/chat_template/chat_template.h"
#include "atom/model_engine/llm_engine.h"
#include "atom/request_output.h"
#include "atom/tokenizer/tokenizer.h"

namespace atom::openai {

class EngineClient {
 public:
  virtual ~EngineClient() = default;
  virtual Result<RequestId> add_request(GenerationRequest request, OutputCallback callback) = 0;
  virtual void abort(RequestId id) = 0;
  // False: a grammar goes to add_request() as it is.
  virtual bool compiles_grammars() const { return false; }
  // As of LLMEngine: the first may take seconds, the second never waits.
  virtual Result<std::shared_ptr<const CompiledGrammar>> compile_grammar(const GrammarSpec& spec,
                                                                         double* /*seconds_left*/) {
    return std::unexpected(Error{.code = ErrorCode::kUnsupported,
                                 .message = "structured outputs are not supported by this engine",
                                 .param = spec.param});
  }
  virtual std::shared_ptr<const CompiledGrammar> find_grammar(const GrammarSpec&) {
    return nullptr;
  }
  // As of LLMEngine.
  virtual Status start_profile(const std::string& /*output_dir*/) {
    return make_error(ErrorCode::kUnsupported, "this engine has no profiler");
  }
  virtual Result<std::vector<std::string>> stop_profile() {
    return make_error(ErrorCode::kUnsupported, "this engine has no profiler");
  }
  virtual EngineStats stats() const = 0;
  virtual const EngineMetrics* metrics() const { return nullptr; }  // nullptr: not measured
  virtual const std::shared_ptr<const Tokenizer>& tokenizer() const = 0;
  virtual const ChatTemplate* chat_template() const = 0;      // nullptr: none
  virtual std::string_view chat_template_source() const = 0;  // empty: none
  virtual int64_t max_model_len() const = 0;
  virtual int64_t vocab_size() const = 0;  // width of the logits
};

}  // namespace atom::openai
