// Four chats, answered together: the same as python/atom/examples/simple_inference.py, in C++.
//   simple_inference MODEL [TEMPERATURE] [MAX_TOKENS]
// MODEL is a directory, a .gguf file or a hub name.
#include <boost/json.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "atom/core/log.h"
#include "atom/model_engine/llm_engine.h"

namespace {

const std::vector<std::string> kQuestions = {
    "Introduce yourself in two sentences.",
    "List all prime numbers below 100.",
    "1+2+3=?",
    "如何在一个月内增肌10公斤？",
};

// The question as a chat, by the model's own template; as it is when the model has none.
atom::Result<std::vector<int32_t>> make_prompt(const atom::LLMEngine& engine,
                                               const std::string& question) {
  const atom::Tokenizer& tokenizer = *engine.tokenizer();
  if (engine.chat_template() == nullptr) return tokenizer.encode(question, true);
  const boost::json::value messages = {{{"role", "user"}, {"content", question}}};
  const boost::json::object variables = {{"enable_thinking", true}};
  const auto text = engine.chat_template()->render_chat({.messages = &messages,
                                                         .chat_template_kwargs = &variables,
                                                         .bos_token = tokenizer.bos_token(),
                                                         .eos_token = tokenizer.eos_token()});
  if (!text) return atom::make_error(atom::ErrorCode::kInvalidArgument, "{}", text.error().message);
  return tokenizer.encode(*text, false);
}

atom::Status run(const std::string& model, const atom::SamplingParams& params) {
  ATOM_ASSIGN_OR_RETURN(const atom::EngineConfig config,
                        atom::make_engine_config({.model = model}));
  ATOM_ASSIGN_OR_RETURN(const auto engine, atom::LLMEngine::create(config));
  std::vector<std::vector<int32_t>> prompts;
  for (const std::string& question : kQuestions) {
    ATOM_ASSIGN_OR_RETURN(std::vector<int32_t> prompt, make_prompt(*engine, question));
    prompts.push_back(std::move(prompt));
  }
  ATOM_RETURN_IF_ERROR(engine->generate({prompts[2]}, {{.max_tokens = 4}}));  // warm-up
  ATOM_ASSIGN_OR_RETURN(const auto results, engine->generate(prompts, {params}));
  for (size_t i = 0; i < results.size(); ++i) {
    std::printf("\n=== %s\n%s\n", kQuestions[i].c_str(), results[i].text.c_str());
    std::printf("--- %d + %d tokens, first token %.3f s, then %.1f ms each\n",
                static_cast<int>(results[i].num_tokens_input),
                static_cast<int>(results[i].num_tokens_output), results[i].ttft,
                1e3 * results[i].tpot);
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: simple_inference MODEL [TEMPERATURE] [MAX_TOKENS]\n");
    return 2;
  }
  atom::set_log_level(atom::LogLevel::kWarning);
  const atom::SamplingParams params{
      .temperature = argc > 2 ? std::strtof(argv[2], nullptr) : 0.6F,
      .max_tokens = argc > 3 ? std::strtoll(argv[3], nullptr, 10) : 256};
  const atom::Status status = run(argv[1], params);
  if (!status) std::fprintf(stderr, "simple_inference: %s\n", status.error().message.c_str());
  return status ? 0 : 1;
}
